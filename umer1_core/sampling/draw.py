"""A seeded draw of min(size, n) rows in one pass, whatever the order of the rows.

Guarantees: the rows drawn depend on the seed and the rows' keys alone; memory grows with the size of the draw, not of
the source; every row read is drawn, not drawn, or refused. A row whose key is already drawn is refused as a duplicate.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from umer1_core.pairs import draw_priority
from umer1_core.sampling.rows import RawRow, Refused


@dataclass(frozen=True)
class Drawn:
    """The drawn rows in reading order, the refused ones, and how many were read and not drawn by source."""

    rows: list[RawRow]
    refused: list[Refused]
    read: Counter[str]
    not_drawn: Counter[str]


@dataclass(slots=True)
class _Candidate:
    order: int
    row: RawRow
    twins: list[tuple[str, int]] = field(default_factory=list)


def draw(items: Iterable[RawRow | Refused], size: int, seed: int) -> Drawn:
    """Keep the `size` rows of smallest priority."""
    heap: list[tuple[int, str]] = []
    held: dict[str, _Candidate] = {}
    refused: list[Refused] = []
    read: Counter[str] = Counter()
    not_drawn: Counter[str] = Counter()
    for order, item in enumerate(items):
        read[item.source] += 1
        if isinstance(item, Refused):
            refused.append(item)
            continue
        identifier = item.pair_id
        if twin := held.get(identifier):
            twin.twins.append((item.file, item.row))
            continue
        held[identifier] = _Candidate(order, item)
        heapq.heappush(heap, (-draw_priority(seed, identifier), identifier))
        if len(heap) > size:
            lost = held.pop(heapq.heappop(heap)[1])
            not_drawn[lost.row.source] += 1 + len(lost.twins)
    kept = sorted(held.values(), key=lambda candidate: candidate.order)
    refused.extend(_duplicate(candidate.row, *twin) for candidate in kept for twin in candidate.twins)
    return Drawn([candidate.row for candidate in kept], refused, read, not_drawn)


def _duplicate(row: RawRow, file: str, number: int) -> Refused:
    name = file.rpartition("/")[2]
    return Refused(
        row.source,
        f"{name}#{number}",
        "duplicate_row",
        f"row {number} of {file} repeats row {row.row} of {row.file}",
    )
