"""The drawn rows of a unit, handed on in windows, so that memory is bounded by a window where rows are many and large.

Guarantees: the windows together are the rows that `draw` keeps, in reading order. Released data, a million rows with a
page of reasoning each, are read twice: first which rows are drawn, then those rows a window at a time. Of everything
else the drawn rows are held, as one window: their containers are then read through once, in stored order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from umer1_core.sampling.draw import Drawn, draw
from umer1_core.sampling.released import Released
from umer1_core.sampling.rows import Layout, RawRow, RawSide, Refused

WINDOW = 16_384
_LIGHT = RawSide("", "", "")


@dataclass(frozen=True)
class Selection:
    """What was drawn: the counts and refusals, the number of rows, and the rows themselves (once)."""

    counts: Drawn
    rows: int
    windows: Iterator[Sequence[RawRow]]


def select(layout: Layout, limit: int, seed: int) -> Selection:
    """Draw `limit` rows of a unit."""
    if not isinstance(layout, Released):
        drawn = draw(layout.rows(), limit, seed)
        return Selection(replace(drawn, rows=[]), len(drawn.rows), iter([drawn.rows]))
    drawn = draw((_light(row) for row in layout.rows()), limit, seed)
    numbers = np.fromiter((row.row for row in drawn.rows), np.int64, len(drawn.rows))
    return Selection(replace(drawn, rows=[]), len(numbers), _windows(layout, numbers))


def _light(row: RawRow | Refused) -> RawRow | Refused:
    return replace(row, query=_LIGHT, target=_LIGHT) if isinstance(row, RawRow) else row


def _windows(layout: Released, numbers: np.ndarray) -> Iterator[list[RawRow]]:
    """numbers: of the drawn rows, ascending."""
    window: list[RawRow] = []
    place = 0
    for row in layout.answered_rows():
        if place == len(numbers):
            break
        if row.row == numbers[place]:
            place += 1
            window.append(row)
        if len(window) == WINDOW:
            yield window
            window = []
    if window:
        yield window
