"""Runs are found exactly: they agree with looking at every period and every place."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.brute_loops import draw_case, every_run, longest_runs
from umer1_core.loops import COUNTS, FLOOR, Run, profiles, strongest_run

WORDS = st.lists(st.integers(0, 2), max_size=40)
LOOPS = st.builds(
    lambda head, span, times, tail: head + span * times + span[: len(tail)] + tail,
    WORDS, st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 8), WORDS,
)  # fmt: skip
MIN_COUNTS = st.sampled_from([2.0, 2.5, 3.0, 4.0, 6.0])


def profile(ids, counts=COUNTS) -> tuple[list[int], list[int]]:
    tokens, periods = profiles(np.asarray(ids), np.array([0, len(ids)]), counts)
    return tokens[0].tolist(), periods[0].tolist()


@settings(max_examples=300, deadline=None)
@given(ids=WORDS | LOOPS, min_count=MIN_COUNTS)
def test_the_strongest_run_agrees_with_brute_force(ids, min_count):
    runs = [run for run in every_run(ids) if run.count >= 2]
    looping = [run for run in runs if run.count >= min_count]
    if looping:
        expected = max(looping, key=lambda run: (run.tokens, -run.period))
    else:
        expected = max(runs, key=lambda run: (run.count, -run.period), default=Run())
    assert strongest_run(ids, min_count) == expected


@settings(max_examples=300, deadline=None)
@given(ids=WORDS | LOOPS)
def test_a_profile_agrees_with_brute_force(ids):
    assert profile(ids) == longest_runs(ids, COUNTS, FLOOR)


def test_thousands_of_rows_in_one_call_agree_with_brute_force():
    """Rows share the chains' table in the kernel; none may see what another left there."""
    rng = np.random.default_rng(0)
    rows = [draw_case(rng) for _ in range(3_000)]
    offsets = np.cumsum([0, *map(len, rows)])
    tokens, periods = profiles(np.concatenate(rows), offsets)
    found = list(zip(tokens.tolist(), periods.tolist(), strict=True))
    assert found == [longest_runs(row.tolist(), COUNTS, FLOOR) for row in rows]
    assert sum(any(run) for run, _ in found) > 500, "nothing was there to be found"


@pytest.mark.parametrize("place", ["start", "middle", "end"])
@pytest.mark.parametrize("period", [1, 2, 3, 7, 31, 64, 200, 644])
def test_a_loop_is_found_wherever_it_stands_and_however_long_its_span(place, period):
    rng = np.random.default_rng(period)
    text, span = rng.integers(0, 150_000, 1_289), rng.integers(150_000, 151_000, period)
    span[0] = 151_000  # so that no shorter period is hidden in it
    size = max(2 * period, 16)
    start = {"start": 0, "middle": (len(text) - size) // 2, "end": len(text) - size}[place]
    text[start : start + size] = np.resize(span, size)
    assert (profile(text)[0][0], profile(text)[1][0]) == (size, period)


def test_counts_of_the_callers_own_may_be_fractions():
    ids = [1, 2, 3, 4, 5, 6, 7, 8] * 2 + [1, 2, 3, 4]
    assert profile(ids, (2, 2.5)) == ([20, 20], [8, 8])
    assert profile(ids, (2, 2.51)) == ([20, 0], [8, 0])


def test_runs_that_cover_less_than_the_floor_are_in_no_profile_but_may_be_the_strongest():
    ids = [1, 2, 3] * 5
    assert len(ids) < FLOOR and profile(ids) == ([0] * len(COUNTS), [0] * len(COUNTS))
    assert strongest_run(ids, 4) == Run(3, 5.0, 15)


def test_a_loop_cut_off_in_the_middle_of_a_copy_counts_its_part():
    assert strongest_run([9, 8, *[1, 2, 3] * 4, 1], 4) == Run(3, 13 / 3, 13)


def test_a_long_loop_is_found_beside_a_short_token_that_repeats_more_often():
    ids = [7] * 10 + list(range(100, 110)) * 4
    assert strongest_run(ids, 4) == Run(10, 4.0, 40)


def test_nothing_and_no_rows_have_no_runs():
    assert strongest_run([], 4) == Run() and strongest_run([5], 2) == Run()
    assert profiles(np.empty(0, np.int32), np.array([0]))[0].shape == (0, len(COUNTS))


def fibonacci(size: int) -> np.ndarray:
    short, long = [0], [0, 1]
    while len(long) < size:
        short, long = long, long + short
    return np.array(long[:size])


@pytest.mark.parametrize("kind", ["constant", "fibonacci", "binary", "half a loop"])
def test_nasty_rows_stay_far_from_quadratic(kind):
    rng, size = np.random.default_rng(0), 32_768
    ids = {
        "constant": np.ones(size, int),
        "fibonacci": fibonacci(size),
        "binary": rng.integers(0, 2, size),
        "half a loop": np.r_[rng.integers(0, 150_000, size // 2), np.ones(size // 2, int)],
    }[kind]
    strongest_run(ids[:64], 4)
    started = time.process_time()
    strongest_run(ids, 4)
    assert time.process_time() - started < 0.5  # 3 to 20 ms on an idle core; comparing all pairs takes seconds


def test_threads_may_profile_at_once():
    rng = np.random.default_rng(1)
    flat = np.concatenate([draw_case(rng) for _ in range(300)])
    offsets = np.arange(0, len(flat) + 1, 50)
    expected = profiles(flat, offsets)[0]
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(profiles(flat, offsets)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all((each == expected).all() for each in found)


def test_importing_the_module_does_not_import_the_compiler():
    check = "import sys, umer1_core.loops, umer1_core.filtering; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
