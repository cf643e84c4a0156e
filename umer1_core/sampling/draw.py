"""A seeded draw of min(size, n) rows in one pass, whatever the order of the rows.

Guarantees: the rows drawn depend on the seed and the rows' keys alone; memory grows with the size of the draw, not of
the source; every row read is drawn, not drawn, or refused. A row whose key is already drawn is refused as a duplicate.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from umer1_core.pairs import draw_priority
from umer1_core.sampling.rows import RawRow, Refused


@dataclass(frozen=True)
class Drawn:
    """The drawn rows in reading order, the refused ones, and how many were read and not drawn by source.

    noted: rows read by their note.
    """

    rows: list[RawRow]
    refused: list[Refused]
    read: Counter[str]
    not_drawn: Counter[str]
    noted: Counter[str] = field(default_factory=Counter)


def draw(items: Iterable[RawRow | Refused], size: int, seed: int) -> Drawn:
    """Keep the `size` rows of smallest priority."""
    held: dict[str, RawRow] = {}  # in reading order, by pair_id
    twins: dict[str, list[tuple[str, int]]] = defaultdict(list)
    heap: list[tuple[int, str]] = []  # made when the first row too many comes; what is lost next stands first
    drawn = Drawn([], [], Counter(), Counter(), Counter())
    for item in items:
        drawn.read[item.source] += 1
        if isinstance(item, Refused):
            drawn.refused.append(item)
            continue
        if item.note:
            drawn.noted[item.note] += 1
        identifier = item.pair_id
        if identifier in held:
            twins[identifier].append((item.file, item.row))
            continue
        if len(held) < size:
            held[identifier] = item
            continue
        if not heap:
            heap = [_entry(seed, each) for each in held]
            heapq.heapify(heap)
        entry = _entry(seed, identifier)
        if entry < heap[0]:
            drawn.not_drawn[item.source] += 1
            continue
        held[identifier] = item
        lost = heapq.heapreplace(heap, entry)[1]
        drawn.not_drawn[held.pop(lost).source] += 1 + len(twins.pop(lost, ()))
    drawn.rows.extend(held.values())
    drawn.refused.extend(_duplicate(row, *twin) for key, row in held.items() for twin in twins.get(key, ()))
    return drawn


def _entry(seed: int, identifier: str) -> tuple[int, str]:
    """The largest priority comes first."""
    return -draw_priority(seed, identifier), identifier


def _duplicate(row: RawRow, file: str, number: int) -> Refused:
    name = file.rpartition("/")[2]
    return Refused(
        row.source,
        f"{name}#{number}",
        "duplicate_row",
        f"row {number} of {file} repeats row {row.row} of {row.file}",
    )
