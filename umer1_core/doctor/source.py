"""One unit of a source, looked at quickly: some of its rows are read, some of those are opened, the rest is counted.

Guarantees: the same rows for the same seed; media are read by header, not decoded, unless the recipe says otherwise; a
damaged row is counted under its reason. Numbers about rows are those of the rows read, numbers about media those of the
rows opened: both counts stand beside them.
"""

from __future__ import annotations

import heapq
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from schemas.sources import LlavaHoundSource, MediaRules, MmebSource, VidoreSource, VisragSource
from umer1_core.doctor.tokens import side_tokens
from umer1_core.download.counts import RowCount, count_rows
from umer1_core.media import local_path
from umer1_core.pairs import Media, Pair, draw_priority
from umer1_core.sampling.layouts import open_layout
from umer1_core.sampling.opening import Opened, open_rows
from umer1_core.sampling.rows import RawRow, RawSide, Refused, SourceSpec

ROWS_READ = 20_000
_COMPRESSED_BYTES = 2 << 30  # of clips in compressed archives; more are not searched in a check that must be quick


@dataclass(frozen=True, slots=True)
class SourceFindings:
    """rows: in the files where that is cheap to tell. pairs: that a run draws, at most. tokens: of an opened pair.

    refused: of the rows read or opened, by reason. images, clips: smallest, median and largest width and height.
    """

    source: str
    modality: str
    rows: int | None
    expected: str
    pairs: int | None
    read: int
    opened: int
    refused: dict[str, int]
    details: dict[str, str]
    repeated: int
    distinct_targets: float
    images: list[tuple[int, int]]
    clips: list[tuple[int, int]]
    clip_frames: list[int]
    notes: dict[str, int]
    query_tokens: float
    target_tokens: float
    leaked: int
    leaked_examples: list[str]
    seconds: float
    unopened: str = ""
    disagrees: bool = False

    def dump(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Read:
    """What the rows read say, without their media."""

    rows: list[RawRow] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    keys: Counter[str] = field(default_factory=Counter)
    targets: Counter[tuple[str, str]] = field(default_factory=Counter)
    count: int = 0


def look_at(
    spec: SourceSpec, seed: int, sample: int, rules: MediaRules, known: dict[str, str], archives: bool = False
) -> SourceFindings:
    """known: content hashes of evaluation sets, and where they stand. archives: also search large compressed ones.

    Raises SourceError for a file that is missing, unreadable, or lacks a column.
    """
    started = time.monotonic()
    layout = open_layout(spec)
    read = _read(layout.rows())
    drawn = heapq.nsmallest(sample, read.rows, key=lambda row: (draw_priority(seed, row.pair_id), row.row))
    unopened = "" if archives else _unopened(spec)
    results = [] if unopened else list(open_rows(layout, drawn, spec.modality, rules))
    pairs = [result.pair for result in results if isinstance(result, Opened)]
    refused = [*read.refused, *(result for result in results if isinstance(result, Refused))]
    counted = _rows_in_files(spec)
    rows = counted.rows if counted else (read.count if read.count < ROWS_READ else None)
    media = [item for pair in pairs for side in (pair.query, pair.target) for item in side.media]
    leaked = [(pair, item) for pair in pairs for item in _media(pair) if item.content_hash in known]
    return SourceFindings(
        source=spec.name,
        modality=spec.modality,
        rows=rows,
        expected=counted.expected if counted else "",
        disagrees=bool(counted and not counted.agrees),
        pairs=min(rows, spec.limit) if rows is not None else None,
        read=read.count,
        opened=len(results),
        refused=dict(Counter(row.reason for row in refused).most_common()),
        details={row.reason: f"{row.row}: {row.detail}" for row in reversed(refused)},
        repeated=sum(count - 1 for count in read.keys.values()),
        distinct_targets=round(len(read.targets) / max(1, read.targets.total()), 4),
        images=_sizes([item for item in media if item.kind == "image"]),
        clips=_sizes([item for item in media if item.kind == "video"]),
        clip_frames=_spread([len(item.frames) for item in media if item.kind == "video"]),
        notes=dict(Counter(note.split(":")[0] for item in media for note in item.notes).most_common()),
        query_tokens=_mean([side_tokens(pair.query, rules) for pair in pairs]),
        target_tokens=_mean([side_tokens(pair.target, rules) for pair in pairs]),
        leaked=len({pair.pair_id for pair, _ in leaked}),
        leaked_examples=[f"{pair.row}: {_name(item)} is {known[item.content_hash]}" for pair, item in leaked[:3]],
        seconds=round(time.monotonic() - started, 2),
        unopened=unopened,
    )


def _read(rows: Iterator[RawRow | Refused]) -> _Read:
    read = _Read()
    for row in islice(rows, ROWS_READ):
        read.count += 1
        if isinstance(row, Refused):
            read.refused.append(row)
            continue
        identifier = row.pair_id
        read.keys[identifier] += 1
        read.targets[_identity(row.target)] += 1
        if read.keys[identifier] == 1:
            read.rows.append(row)
    return read


def _identity(side: RawSide) -> tuple[str, str]:
    return side.text, side.reference


def _media(pair: Pair) -> Iterator[Media]:
    yield from pair.query.media
    yield from pair.target.media


def _name(media: Media) -> str:
    """Short, for a message that already says the row."""
    return (media.member or media.uri).rstrip("/").rpartition("/")[2]


def _rows_in_files(spec: SourceSpec) -> RowCount | None:
    """From Parquet footers and line ends; None where the files are elsewhere or have no such count."""
    config = spec.config
    root = local_path(getattr(config, "root", "") or "")
    if not root:
        return None
    folder = Path(root).expanduser()
    if isinstance(config, MmebSource):
        return count_rows(spec.name, sorted(folder.glob(f"{spec.unit}/{config.split}-*.parquet")))
    if isinstance(config, LlavaHoundSource):
        name = "video_240k_caption_15k" if spec.unit == "qa" else "video_caption_300k"
        return count_rows(spec.name, sorted(folder.glob(f"video_instruction/train/sft/{name}.jsonl")))
    if isinstance(config, VidoreSource | VisragSource):
        return count_rows(spec.name, sorted(folder.glob("data/train-*.parquet")))
    return None  # records of released JSON are counted by `umer1 download`: that reads gigabytes


def _unopened(spec: SourceSpec) -> str:
    """Why clips are not opened: they are found in compressed archives only by reading these from end to end."""
    root = local_path(getattr(spec.config, "root", "") or "")
    if not isinstance(spec.config, LlavaHoundSource) or not root:
        return ""
    folder = Path(root).expanduser() / "train_300k"
    packed = sum(file.stat().st_size for file in folder.glob("chunk_*.tar.gz"))
    if packed <= _COMPRESSED_BYTES or any(path.is_dir() for path in folder.iterdir()):
        return ""
    return f"its clips lie in {packed / 1e9:,.0f} GB of compressed archives"


def _sizes(media: Sequence[Media]) -> list[tuple[int, int]]:
    """Smallest, median and largest by area; empty where there are none."""
    if not media:
        return []
    ordered = sorted(((item.width, item.height) for item in media), key=lambda size: size[0] * size[1])
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def _spread(values: Sequence[int]) -> list[int]:
    return [min(values), int(statistics.median(values)), max(values)] if values else []


def _mean(values: Sequence[float]) -> float:
    return round(statistics.fmean(values), 1) if values else 0.0
