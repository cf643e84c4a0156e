"""The cold_start table: its index, and the slice that is never trained on."""

import numpy as np
import pytest

from tests.student import cold_start_row, small_pairs
from umer1_core.errors import ValidationFailed
from umer1_core.pairs import Side, draw_priority, side_record
from umer1_core.store import Store
from umer1_core.training.data.cold_start import ColdStart, negative_sides


@pytest.fixture
def store(tmp_path):
    """Three shards of twelve rows; every query stands in three rows, with two sources."""
    store = Store(str(tmp_path / "data"))
    rows = [cold_start_row(pair) for pair in small_pairs(tmp_path)]
    for shard in range(3):
        changed = [
            row | {"source": f"source-{(shard + i) % 2}", "pair_id": f"{shard}-{i}"} for i, row in enumerate(rows)
        ]
        store.write_shard("cold_start", f"{shard:05d}", changed)
    return store


def test_the_index_has_every_row_with_its_source(store):
    data = ColdStart(store)
    stored = store.read("cold_start")["source"].to_pylist()
    assert [data.sources[code] for code in data.source_codes] == stored
    assert len(data) == 36 and data.trainable.all() and not len(data.held_out)


def test_rows_are_named_by_their_number_over_the_shards(store):
    records = ColdStart(store).rows(np.array([35, 0, 12]))
    assert [row["pair_id"] for row in records] == ["2-11", "0-0", "1-0"]


def test_the_slice_holds_the_smallest_draws_and_depends_on_the_seed(store):
    data = ColdStart(store, held_out=4, seed=3)
    names = store.read("cold_start")["pair_id"].to_pylist()
    assert [row["pair_id"] for row in data.held_out_rows()] == sorted(names, key=lambda n: draw_priority(3, n))[:4]
    assert set(data.held_out) != set(ColdStart(store, held_out=4, seed=4).held_out)


def test_no_pair_with_a_query_of_the_slice_is_trained_on(store):
    data = ColdStart(store, held_out=3, seed=0)
    queries = {row["query_key"] for row in data.held_out_rows()}
    assert {row["query_key"] for row in data.rows(np.flatnonzero(data.trainable))}.isdisjoint(queries)
    assert (~data.trainable).sum() == 3 * len(queries), "each query stands in three rows, of which some are not drawn"


def test_the_slice_does_not_change_the_identity_of_the_data(store):
    assert ColdStart(store).data_hash == ColdStart(store, held_out=3).data_hash


def test_a_store_without_rows_is_refused(tmp_path):
    with pytest.raises(ValidationFailed, match="0 in all"):
        ColdStart(Store(str(tmp_path)), held_out=2)


def test_a_slice_that_leaves_nothing_is_refused(store):
    with pytest.raises(ValidationFailed, match="36 of them held out"):
        ColdStart(store, held_out=500)


def test_texts_are_all_prompts_and_responses(store):
    assert len(list(ColdStart(store, held_out=3).texts())) == 4 * 36


def test_hard_negatives_are_others_than_the_pair_each_once():
    query, target, wrong = Side("who?"), Side("right"), Side("wrong")
    record = {
        "query_key": query.key,
        "target_key": target.key,
        "negatives": [side_record(side) for side in (target, wrong, query, wrong, Side("worse"), Side("worst"))],
    }
    assert [side.text for side in negative_sides(record, 2)] == ["wrong", "worse"]
    assert negative_sides(record, 0) == [] and negative_sides(record | {"negatives": None}, 2) == []
