"""Estimates of the whole from a sample, with ranges that hold the truth."""

import math

import numpy as np
import pytest

from umer1_core.pilot.projection import Estimate, Stratum, estimate_count, estimate_total


def test_strata_count_by_their_size_and_not_by_how_often_they_were_looked_at():
    estimate = estimate_total([Stratum(1_000, [10.0, 10.0]), Stratum(10, [100.0] * 8)])
    assert estimate == Estimate(11_000.0, 11_000.0, 11_000.0)


def test_the_range_is_two_standard_errors_of_the_pooled_variance():
    # Variance 2 within each stratum (n - 1); each of 1,000 is looked at twice: errors 1000² · 0.998 · 2 / 2, twice.
    estimate = estimate_total([Stratum(1_000, [9.0, 11.0]), Stratum(1_000, [19.0, 21.0])])
    assert estimate.value == 30_000
    assert estimate.high - estimate.value == pytest.approx(2 * math.sqrt(2 * 1_000**2 * 0.998))


def test_what_was_looked_at_whole_is_known():
    estimate = estimate_total([Stratum(3, [1.0, 5.0, 9.0])])
    assert estimate == Estimate(15.0, 15.0, 15.0)


def test_a_stratum_nobody_looked_at_is_like_the_others_and_widens_the_range():
    seen = [Stratum(100, [10.0, 12.0, 8.0])]
    both = estimate_total([*seen, Stratum(50, [])])
    alone = estimate_total(seen)
    assert both.value == 1_500 and both.high - both.value > alone.high - alone.value


def test_all_of_a_few_kept_does_not_promise_that_all_are_kept():
    estimate = estimate_count([Stratum(10_000, [1.0] * 5)])
    assert estimate.value == 10_000 == estimate.high and 3_000 < estimate.low < 9_000


def test_nothing_seen_is_nothing_known():
    assert estimate_total([Stratum(100, [])]) == estimate_count([]) == Estimate(0.0, 0.0, 0.0)


def test_the_range_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    population = [rng.gamma(2.0, 300.0 * (1 + n), 5_000) for n in range(6)]
    truth = sum(part.sum() for part in population)
    held = 0
    for _ in range(200):
        estimate = estimate_total([Stratum(5_000, rng.choice(part, 8, replace=False)) for part in population])
        held += estimate.low <= truth <= estimate.high
    assert 0.88 <= held / 200 < 1.0
