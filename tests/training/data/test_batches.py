"""Which rows a step trains on."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umer1_core.errors import RecipeError, ValidationFailed
from umer1_core.training.data.batches import Batches, deal, weights_of

CODES = np.array([0] * 40 + [1] * 25 + [2] * 10, np.uint16)
ALL = np.ones(len(CODES), np.bool_)


def epoch_of(batches: Batches, number: int = 0) -> list[list[int]]:
    first = number * batches.steps_per_epoch
    return [batches.batch(step)[1].tolist() for step in range(first, first + batches.steps_per_epoch)]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    batch=st.integers(2, 24),
    block=st.integers(1, 12),
    seed=st.integers(-3, 3),
)
def test_an_epoch_visits_a_row_at_most_once_and_leaves_out_only_an_incomplete_batch(counts, batch, block, seed):
    codes = np.repeat(np.arange(len(counts)), counts)
    made = epoch_of(Batches(codes, np.ones(len(codes), np.bool_), batch, block, seed))
    rows = [row for rows in made for row in rows]
    size = min(batch, sum(counts))
    assert len(rows) == len(set(rows)) == sum(counts) // size * size
    assert {len(rows) for rows in made} == {size}


def test_blocks_hold_one_source_each():
    made = epoch_of(Batches(CODES, ALL, 10, 5, 0))
    blocks = [CODES[rows][first : first + 5] for rows in made for first in (0, 5)]
    assert len(blocks) == 14 and all(len(set(block.tolist())) == 1 for block in blocks)


def test_rows_that_fill_no_block_come_in_batches_of_their_own():
    made = epoch_of(Batches(CODES, ALL, 10, 10, 0))
    mixed = [rows for rows in made if len(set(CODES[rows].tolist())) > 1]
    assert len(made) == 7 and len(mixed) <= 1


def test_the_batch_of_a_step_depends_on_seed_and_step_alone():
    walked = [Batches(CODES, ALL, 10, 5, 7)]
    steps = [walked[0].batch(step) for step in range(20)]
    epoch, rows = Batches(CODES, ALL, 10, 5, 7).batch(17)
    assert epoch == steps[17][0] == 2 and rows.tolist() == steps[17][1].tolist(), "without what came before"
    assert Batches(CODES, ALL, 10, 5, 8).batch(17)[1].tolist() != rows.tolist()


def test_every_epoch_has_its_own_order():
    batches = Batches(CODES, ALL, 10, 5, 7)
    assert epoch_of(batches, 0) != epoch_of(batches, 1)


def test_rows_that_are_not_usable_are_not_drawn():
    usable = ALL.copy()
    usable[::3] = False
    rows = [row for number in range(3) for rows in epoch_of(Batches(CODES, usable, 10, 5, 0), number) for row in rows]
    assert usable[rows].all() and len(set(rows)) == usable.sum()


@pytest.mark.parametrize("weight", [0.25, 1.0, 2.5])
def test_a_source_is_visited_its_weight_times_an_epoch_and_its_rows_evenly(weight):
    batches = Batches(CODES, ALL, 5, 5, 0, np.array([1.0, 1.0, weight]))
    epochs = 8
    visits = Counter(row for number in range(epochs) for rows in epoch_of(batches, number) for row in rows)
    of_source = [visits[row] for row in range(65, 75)]
    # An epoch leaves out an incomplete batch: fewer than five rows, of any source.
    drawn = epochs * max(1, round(10 * weight))
    assert drawn - 4 * epochs <= sum(of_source) <= drawn
    if not sum(round(n * w) for n, w in ((40, 1), (25, 1), (10, weight))) % 5:
        assert max(of_source) - min(of_source) <= 1 and sum(of_source) == drawn


def test_a_weight_of_zero_leaves_a_source_out():
    rows = [r for rows in epoch_of(Batches(CODES, ALL, 5, 5, 0, np.array([1.0, 0.0, 1.0]))) for r in rows]
    assert set(CODES[rows]) == {0, 2}


def test_weights_are_by_name():
    assert weights_of(["a", "b"], {"b": 2.5}).tolist() == [1.0, 2.5]


@pytest.mark.parametrize("wrong", [{"c": 1.0}, {"a": -1.0}, {"a": float("nan")}])
def test_a_weight_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(RecipeError, match="source_weights"):
        weights_of(["a", "b"], wrong)


def test_a_data_set_smaller_than_a_batch_is_one_batch():
    batches = Batches(CODES, ALL, 1_000, 500, 0)
    assert batches.steps_per_epoch == 1 and sorted(batches.batch(3)[1].tolist()) == list(range(75))


def test_no_row_at_all_is_refused():
    with pytest.raises(ValidationFailed):
        Batches(CODES, ~ALL, 10, 5, 0)


def test_the_ranks_shares_are_the_whole_batch_in_equal_counts():
    batches = Batches(CODES, ALL, 12, 4, 0, lengths=np.arange(75))
    whole = batches.batch(2)[1]
    shares = [batches.share(2, rank, 4)[1] for rank in range(4)]
    assert sorted(np.concatenate(shares).tolist()) == sorted(whole.tolist())
    assert {len(share) for share in shares} == {3}
    assert batches.share(2, 0, 1)[1].tolist() == whole.tolist(), "one process keeps the batch's order"


def test_shares_are_better_balanced_than_cutting_the_batch():
    lengths = np.random.default_rng(0).lognormal(6.5, 0.9, 1_024).astype(np.int32)
    dealt = [lengths[deal(lengths, rank, 64)].sum() for rank in range(64)]
    cut = lengths.reshape(64, 16).sum(1)
    assert max(dealt) / np.mean(dealt) < 1.15 < 1.5 < max(cut) / np.mean(cut)


def test_a_million_rows_are_indexed_in_little_memory():
    rows = 1_460_000
    codes = np.sort(np.random.default_rng(0).integers(0, 50, rows)).astype(np.uint16)
    usable = np.ones(rows, np.bool_)
    tracemalloc.start()
    try:
        batches = Batches(codes, usable, 1_024, 512, 0)
        epoch, last = batches.batch(batches.steps_per_epoch + 7)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert epoch == 1 and len(last) == 1_024
    assert kept < 16 * rows and peak < 64 * rows, "bytes a row; a tuple of two numbers takes 120"
