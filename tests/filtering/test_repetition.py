"""The strongest run is exact: it agrees with looking at every period and every place."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umer1_core.filtering.repetition import Run, repetition, strongest_run

WORDS = st.lists(st.integers(0, 2), max_size=40)
LOOPS = st.builds(
    lambda head, span, times, tail: head + span * times + span[: len(tail)] + tail,
    WORDS, st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 8), WORDS,
)  # fmt: skip
COUNTS = st.sampled_from([1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0])


def every_run(ids: list[int]) -> list[Run]:
    runs = []
    for period in range(1, len(ids)):
        for start in range(len(ids) - period):
            end = start
            while end + period < len(ids) and ids[end] == ids[end + period]:
                end += 1
            if end > start:
                runs.append(Run(period, (end - start + period) / period, end - start + period))
    return runs


@settings(max_examples=300)
@given(ids=WORDS | LOOPS, min_count=COUNTS)
def test_it_agrees_with_brute_force(ids, min_count):
    runs = [run for run in every_run(ids) if run.count >= min(2.0, min_count)]
    looping = [run for run in runs if run.count >= min_count]
    if looping:
        expected = max(looping, key=lambda run: (run.tokens, -run.period))
    else:
        expected = max(runs, key=lambda run: (run.count, -run.period), default=Run())
    assert strongest_run(ids, min_count) == expected


@given(ids=LOOPS, min_count=COUNTS, min_tokens=st.integers(2, 40))
def test_a_completion_is_rejected_exactly_if_some_run_meets_both_thresholds(ids, min_count, min_tokens):
    exists = any(run.count >= min_count and run.tokens >= min_tokens for run in every_run(ids))
    assert bool(repetition(strongest_run(ids, min_count), min_count, min_tokens)) == exists


def test_a_loop_cut_off_in_the_middle_of_a_copy_counts_its_part():
    assert strongest_run([9, 8, *[1, 2, 3] * 4, 1], 4) == Run(3, 13 / 3, 13)


def test_a_long_loop_is_found_beside_a_short_token_that_repeats_more_often():
    ids = [7] * 10 + list(range(100, 110)) * 4
    assert strongest_run(ids, 4) == Run(10, 4.0, 40)


def test_the_same_words_far_apart_are_no_loop():
    sentence = list(range(20))
    assert repetition(strongest_run(sentence + list(range(50, 90)) + sentence, 2), 2, 10) == ""


@pytest.mark.parametrize("kind", ["words", "constant", "half a loop"])
def test_eight_thousand_tokens_are_a_matter_of_milliseconds(kind):
    words = np.minimum(np.random.default_rng(0).zipf(1.3, 8_192), 150_000)
    ids = {"words": words, "constant": np.ones(8_192, int), "half a loop": np.r_[words[:4_096], np.ones(4_096, int)]}
    times = []
    for _ in range(3):
        start = time.perf_counter()
        strongest_run(ids[kind], 4)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.25  # 4, 10 and 32 ms on an idle core; the bound only catches the quadratic
