"""Drawn rows become pairs: their media are located, opened, checked and hashed, by a pool of threads.

Guarantees: results come in one order for the same draw; containers (tar, Parquet) are read by one thread each in stored
order, so that nothing is decompressed twice; what is in flight is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby, islice

from schemas.sources import MediaRules
from umer1_core.errors import BadInput
from umer1_core.media import describe
from umer1_core.pairs import Media, Modality, Pair, Side
from umer1_core.sampling.rows import Layout, RawRow, RawSide, Refused
from umer1_core.sampling.texts import check_text

_UNIT_ROWS = 64
_REMEMBERED = 8_192  # media of one source that several rows share, opened once

# Files gain from many readers; of containers, the media readers keep four row groups at a time.
_FILE_THREADS, _CONTAINER_THREADS = 16, 4


@dataclass(frozen=True, slots=True)
class Opened:
    """A pair, the number of its row among those opened, and how many of its negatives could not be opened."""

    pair: Pair
    number: int
    negatives_dropped: int = 0


def open_rows(
    layout: Layout, rows: Sequence[RawRow], modality: Modality, rules: MediaRules
) -> Iterator[Opened | Refused]:
    """One result per row."""
    units = _units(layout, rows)
    describe_once = lru_cache(maxsize=_REMEMBERED)(partial(describe, rules=rules))

    def open_unit(unit: list[int]) -> list[Opened | Refused]:
        return [_open(layout, rows[number], number, modality, describe_once) for number in unit]

    threads = _CONTAINER_THREADS if any(container for container, _ in units) else _FILE_THREADS
    with ThreadPoolExecutor(threads, thread_name_prefix="open-media") as pool:
        waiting = iter([unit for _, unit in units])
        flying: deque[Future[list[Opened | Refused]]] = deque(
            pool.submit(open_unit, unit) for unit in islice(waiting, 2 * threads)
        )
        while flying:
            results = flying.popleft().result()
            flying.extend(pool.submit(open_unit, unit) for unit in islice(waiting, 1))
            yield from results


def _units(layout: Layout, rows: Sequence[RawRow]) -> list[tuple[str, list[int]]]:
    """Work for one thread each: the numbers of a container's rows in stored order, or of a few rows of plain files."""
    placed = sorted((*_place(layout, row), order) for order, row in enumerate(rows))
    units: list[tuple[str, list[int]]] = []
    for container, members in groupby(placed, key=lambda place: place[0]):
        unit = [order for _, _, order in members]
        size = len(unit) if container else _UNIT_ROWS
        units.extend((container, unit[i : i + size]) for i in range(0, len(unit), size))
    return units


def _place(layout: Layout, row: RawRow) -> tuple[str, int]:
    """Where a row's media are read; what cannot be placed is told when it is opened."""
    reference = row.query.reference or row.target.reference
    try:
        return layout.place(reference) if reference else ("", 0)
    except BadInput:
        return "", 0


def _open(
    layout: Layout, row: RawRow, number: int, modality: Modality, describe_once: Callable[[Media], Media]
) -> Opened | Refused:
    def side(raw: RawSide) -> Side:
        if not raw.reference:
            return Side(raw.text)
        try:
            return Side(raw.text, tuple(map(describe_once, layout.locate(raw.reference))))
        except BadInput as error:
            raise BadInput(error.reason, f"{raw.field} of row {row.row} of {row.file}: {error.detail}") from error

    try:
        query, target = side(row.query), side(row.target)
    except BadInput as error:
        return row.refuse(error.reason, error.detail)
    negatives = []
    for raw in row.negatives:
        try:
            check_text(raw.text, raw.field)
            negatives.append(side(raw))
        except BadInput:
            continue  # a pair is a pair without it; the caller counts it
    pair = Pair(row.pair_id, row.source, row.modality or modality, query, target, tuple(negatives), row.place)
    return Opened(pair, number, len(row.negatives) - len(negatives))
