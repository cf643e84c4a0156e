"""Every period and every place, one after the other: what umer1_core.loops must agree with.

`python -m tests.brute_loops 100000` compares that many random cases and exits 1 at a difference.
"""

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from umer1_core.loops import COUNTS, FLOOR, Run, profiles, strongest_run


def every_run(ids: Sequence[int]) -> list[Run]:
    """Every stretch that equals itself one period on and cannot be extended, for every period."""
    runs = []
    for period in range(1, len(ids)):
        start = 0
        while start + period < len(ids):
            end = start
            while end + period < len(ids) and ids[end] == ids[end + period]:
                end += 1
            if end > start:
                runs.append(Run(period, (end - start + period) / period, end - start + period))
            start = end + 1
    return runs


def longest_runs(ids: Sequence[int], counts: Sequence[float], floor: int) -> tuple[list[int], list[int]]:
    """Tokens and period of the longest run for each count."""
    runs = [run for run in every_run(ids) if run.tokens >= floor]
    best = [
        max((run for run in runs if run.count >= count), key=lambda run: (run.tokens, -run.period), default=Run())
        for count in counts
    ]
    return [run.tokens for run in best], [run.period for run in best]


def draw_case(rng: np.random.Generator) -> NDArray[np.int32]:
    """Up to a hundred ids of an alphabet of 2 to 5; in most, a loop of any period at the start, middle or end.

    One in twenty is several loops on end, some of them again and again: runs in runs, and chains of equal grams.
    """
    if rng.random() < 0.05:
        parts = [draw_loop(rng, int(rng.integers(2, 9))) for _ in range(rng.integers(1, 5))]
        return np.concatenate(parts * int(rng.integers(1, 3)))[:300].astype(np.int32)
    letters = int(rng.integers(2, 6))
    head, tail = (rng.integers(0, letters, rng.integers(0, 25)) for _ in range(2))
    if rng.random() < 0.25:
        return np.concatenate([head, tail]).astype(np.int32)
    loop = draw_loop(rng, letters)
    place = rng.integers(0, 3)
    return np.concatenate([head if place else head[:0], loop, tail if place < 2 else tail[:0]]).astype(np.int32)


def draw_loop(rng: np.random.Generator, letters: int) -> NDArray[np.int64]:
    """One to five copies of a span of up to 16 ids."""
    span = rng.integers(0, letters, rng.integers(1, 17))
    return np.resize(span, int(len(span) * rng.uniform(1, 5)) + 1)


def main(cases: int) -> int:
    rng, console = np.random.default_rng(cases), Console()
    differences = found = 0
    for _ in range(cases):
        ids = draw_case(rng)
        runs = [run for run in every_run(ids.tolist()) if run.count >= 2]
        tokens, periods = profiles(ids, np.array([0, len(ids)]))
        same = (tokens[0].tolist(), periods[0].tolist()) == longest_runs(ids.tolist(), COUNTS, FLOOR)
        min_count = float(rng.choice([2.0, 2.5, 4.0]))
        looping = [run for run in runs if run.count >= min_count]
        by_copies = max(runs, key=lambda run: (run.count, -run.period), default=Run())
        strongest = max(looping, key=lambda run: (run.tokens, -run.period), default=by_copies)
        differences += not same or strongest_run(ids, min_count) != strongest
        found += bool(tokens.any())
    console.print(f"{cases:,} random cases, {found:,} with runs of {FLOOR} tokens: {differences:,} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000))
