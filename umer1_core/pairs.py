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
    member: what to read inside a container: a tar member, or `column#row` of a Parquet file.
    frames: of a clip, the chosen frames in order: file names inside the folder, or tar members.
    content_hash: blake3 of the bytes (of a clip: of its frames' hashes); size in bytes, width and height in pixels.
    """

    kind: MediaKind
    uri: str
    member: str = ""
    frames: tuple[str, ...] = ()
    content_hash: str = ""
    size: int = 0
    width: int = 0
    height: int = 0

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
            digest.update(f"\x1f{item.kind}\x1e{item.content_hash}".encode())
        return digest.hexdigest()[:32]

    @property
    def empty(self) -> bool:
        return not self.text.strip() and not self.media


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and the target it should retrieve, from one source."""

    pair_id: str
    source: str
    modality: Modality
    query: Side
    target: Side
    negatives: tuple[Side, ...] = field(default=())


def pair_id(source: str, row_key: str) -> str:
    """32 hex digits, the same wherever and in whatever order the row is read."""
    return blake3(f"{source}\x1f{row_key}".encode()).hexdigest()[:32]


def draw_priority(seed: int, identifier: str) -> int:
    """A seeded, order-free draw keeps the n smallest of these."""
    return int.from_bytes(blake3(f"{seed}\x1f{identifier}".encode()).digest()[:8], "big")


def side_record(side: Side) -> dict[str, Any]:
    """The row form of a side (schemas.tables.SIDE)."""
    return {"text": side.text, "media": [asdict(m) | {"frames": list(m.frames)} for m in side.media]}


def side_from_record(record: dict[str, Any]) -> Side:
    """Inverse of `side_record`."""
    return Side(record["text"], tuple(Media(**(m | {"frames": tuple(m["frames"])})) for m in record["media"]))


def pair_record(pair: Pair) -> dict[str, Any]:
    """The row form of a pair (schemas.tables.PAIRS)."""
    return {
        "pair_id": pair.pair_id,
        "source": pair.source,
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
    )
