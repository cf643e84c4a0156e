"""Contiguous repetition in sequences of token ids, of any period.

A run of period p is a stretch where each token equals the one p before it; it has `tokens / period` copies, not
necessarily a whole number, and at least two. Guarantees: exact for every period. Time is near-linear in the tokens, and
a row without any run costs about as much as reading it. The GIL is not held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The copies for which `profiles` tells the longest run. Runs that cover fewer tokens than FLOOR are not in it.
COUNTS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
FLOOR = 16


@dataclass(frozen=True, slots=True)
class Run:
    """`count` copies of `period` tokens, `tokens` in all; nothing repeats when all are 0."""

    period: int = 0
    count: float = 0.0
    tokens: int = 0


def prepare() -> None:
    """Load the compiled part now, where a pause does no harm: half a second, or some seconds the first time ever."""
    strongest_run([0, 0], 2)


def strongest_run(ids: Sequence[int] | NDArray[np.integer], min_count: float) -> Run:
    """The run that covers the most tokens among those with `min_count` copies; without any, the one with most copies.

    So a run with both `min_count` copies and m tokens exists exactly if the result is one. Equal runs: the shortest
    period. However few tokens a run covers, it counts; one of fewer than two copies is none.
    """
    from umer1_core.loop_kernel import most_copies, profile_rows

    flat = np.ascontiguousarray(ids, dtype=np.int32)
    found = profile_rows(flat, np.array([0, len(flat)]), np.array([max(2.0, min_count)], np.float64), 0)
    tokens, period = (int(number) for number in found[0, :, 0])
    if not tokens:
        period, tokens = most_copies(flat)
    return Run(period, tokens / period, tokens) if tokens else Run()


def profiles(
    flat_ids: NDArray[np.integer], offsets: NDArray[np.integer], counts: Sequence[float] = COUNTS
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Tokens and period of every row's longest run with at least so many copies; both [rows, counts].

    Row i is `flat_ids[offsets[i] : offsets[i + 1]]`. `counts` ascend from 2. Zeros where no run of so many copies
    covers FLOOR tokens. Equal runs: the shortest period.
    """
    from umer1_core.loop_kernel import profile_rows

    flat = np.ascontiguousarray(flat_ids, dtype=np.int32)
    found = profile_rows(flat, np.ascontiguousarray(offsets, np.int64), np.asarray(counts, np.float64), FLOOR)
    return found[:, 0], found[:, 1]
