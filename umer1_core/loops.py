"""The strongest contiguous repetition in a sequence, of any period.

Guarantees: exact for every period, over integer ids. A run of period p is a stretch where each token equals the one p
before it; it has `tokens / period` copies, not necessarily a whole number. Near-linear in the number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that its powers never vanish


@dataclass(frozen=True, slots=True)
class Run:
    """`count` copies of `period` tokens, `tokens` in all; nothing repeats when all are 0."""

    period: int = 0
    count: float = 0.0
    tokens: int = 0


def strongest_run(ids: Sequence[int] | NDArray[np.integer], min_count: float) -> Run:
    """The run that covers the most tokens among those with `min_count` copies; without any, the one with most copies.

    So a run with both `min_count` copies and m tokens exists exactly if the result is one. Equal runs: the shortest
    period. Runs of fewer than two copies (or than `min_count`, where that is less) count as nothing.
    """
    tokens = np.asarray(ids, dtype=np.int32)
    least, best = min(2.0, min_count), Run()
    for period in _candidate_periods(tokens, least):
        equal = tokens[:-period] == tokens[period:]
        if best.count >= min_count and np.count_nonzero(equal) + period <= best.tokens:
            continue  # not even all matches together would cover more
        run = _longest(equal, int(period))
        if run.count >= least and _strength(run, min_count) > _strength(best, min_count):
            best = run
    return best


def _strength(run: Run, min_count: float) -> tuple[bool, float, int]:
    enough = run.count >= min_count
    return enough, run.tokens if enough else run.count, -run.period


def _longest(equal: NDArray[np.bool_], period: int) -> Run:
    breaks = np.flatnonzero(~equal)
    if len(breaks) == 0:
        matches = len(equal)
    else:
        matches = max(int(breaks[0]), len(equal) - 1 - int(breaks[-1]), int(np.diff(breaks).max(initial=1)) - 1)
    return Run(period, (matches + period) / period, matches + period) if matches else Run()


def _candidate_periods(tokens: NDArray[np.int32], least: float) -> NDArray[np.int64]:
    """Every period that has a run of `least` copies, and few others, ascending.

    Such a run matches itself one period on over (least - 1) * period tokens in a row, hence over one whole block of
    about half that length in a grid of such blocks. There are n log n blocks over all periods; rolling hashes compare
    each at once. A false match is harmless: every candidate is measured exactly.
    """
    size = len(tokens)
    longest = math.floor(size / least)
    if longest < 1:
        return np.empty(0, np.int64)
    periods = np.arange(1, longest + 1)
    lengths = (np.ceil((least - 1) * periods).astype(np.int64) + 1) // 2
    blocks = np.maximum((size - periods) // lengths, 0)
    period = np.repeat(periods, blocks)
    length = np.repeat(lengths, blocks)
    ordinal = np.arange(len(period)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
    start = ordinal * length
    powers = np.full(size, _BASE, np.uint64)
    powers[0] = 1
    powers = np.cumprod(powers)
    sums = np.concatenate(([np.uint64(0)], np.cumsum(tokens.astype(np.uint64) * powers)))
    here = (sums[start + length] - sums[start]) * powers[period]
    there = sums[start + period + length] - sums[start + period]
    return np.unique(period[here == there])
