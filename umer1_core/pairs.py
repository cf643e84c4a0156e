"""What every stage speaks: a pair of sides, each side text plus references to media.

Identity is content. `side_key` hashes what a model would see, so equal sides coincide whatever pair, role or source
they stand in; `pair_id` hashes the source and the row's own key, never its position.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from blake3 import blake3

Modality = Literal["image", "video", "visdoc"]
MediaKind = Literal["image", "video"]


@dataclass(frozen=True, slots=True)
class Media:
    """A reference to an image or a clip; `umer1_core.media` reads what it points to.

    uri: a file, a folder of frames, or a container (tar, Parquet).
    member: what to read inside a container: a tar or zip member, or `column#row` of a Parquet file.
    offset: where an image's bytes start in the container, `size` of them; -1: to be found by `member`.
    frames: of a clip, the chosen frames in order: file names inside the folder, or tar members.
    content_hash: blake3 of the bytes (of a clip: of its frames' hashes); size in bytes, width and height in pixels.
    notes: what is done to the picture before a model sees it, and what was remarkable; see `umer1_core.media`.
    """

    kind: MediaKind
    uri: str
    member: str = ""
    offset: int = -1
    frames: tuple[str, ...] = ()
    content_hash: str = ""
    size: int = 0
    width: int = 0
    height: int = 0
    notes: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """For messages: the place a person would open."""
        return f"{self.uri}!{self.member}" if self.member else self.uri


@dataclass(frozen=True, slots=True)
class Side:
    """A query, a target or a negative: text plus media, media first as all the reference systems place it."""

    text: str
    media: tuple[Media, ...] = ()

    @property
    def key(self) -> str:
        """side_key: 32 hex digits over the text and the media's content."""
        digest = blake3(self.text.encode())
        for item in self.media:
            shown = "\x1e".join((item.kind, item.content_hash, *item.notes))
            digest.update(f"\x1f{shown}".encode())
        return digest.hexdigest()[:32]

    @property
    def empty(self) -> bool:
        return not self.text.strip() and not self.media


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and the target it should retrieve, from one source. `row`: file and number of the row it was read."""

    pair_id: str
    source: str
    modality: Modality
    query: Side
    target: Side
    negatives: tuple[Side, ...] = field(default=())
    row: str = ""


def pair_id(source: str, row_key: str) -> str:
    """32 hex digits, the same wherever and in whatever order the row is read."""
    return blake3(f"{source}\x1f{row_key}".encode()).hexdigest()[:32]


def draw_priority(seed: int, identifier: str) -> int:
    """A seeded, order-free draw keeps the n smallest of these."""
    return int.from_bytes(blake3(f"{seed}\x1f{identifier}".encode()).digest()[:8], "big")


def side_record(side: Side) -> dict[str, Any]:
    """The row form of a side (schemas.tables.SIDE)."""
    return {"text": side.text, "media": [_media_record(m) for m in side.media]}


def side_from_record(record: dict[str, Any]) -> Side:
    """Inverse of `side_record`."""
    return Side(record["text"], tuple(media_from_record(m) for m in record["media"]))


def media_from_record(record: dict[str, Any]) -> Media:
    """A row of schemas.tables.MEDIA, also one of a schema version that had no offsets and notes."""
    offset = record.get("offset")
    changed = {"frames": tuple(record["frames"]), "notes": tuple(record.get("notes") or ())}
    return Media(**(record | changed | {"offset": -1 if offset is None else offset}))


def _media_record(media: Media) -> dict[str, Any]:
    return asdict(media) | {"frames": list(media.frames), "notes": list(media.notes)}


def pair_record(pair: Pair) -> dict[str, Any]:
    """The row form of a pair (schemas.tables.PAIRS)."""
    return {
        "pair_id": pair.pair_id,
        "source": pair.source,
        "row": pair.row,
        "modality": pair.modality,
        "query_key": pair.query.key,
        "target_key": pair.target.key,
        "query": side_record(pair.query),
        "target": side_record(pair.target),
        "negatives": [side_record(n) for n in pair.negatives],
    }


def pair_from_record(record: dict[str, Any]) -> Pair:
    """Inverse of `pair_record`."""
    return Pair(
        record["pair_id"],
        record["source"],
        record["modality"],
        side_from_record(record["query"]),
        side_from_record(record["target"]),
        tuple(side_from_record(n) for n in record["negatives"]),
        record["row"],
    )
