"""Batches of the cold_start table."""

import numpy as np
import pytest

from tests.student import cold_start_row, small_pairs
from umer1_core.errors import ValidationFailed
from umer1_core.sft.data import ColdStart, batch_of_step, same_source_blocks
from umer1_core.store import Store


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path / "data"))
    rows = [cold_start_row(pair) for pair in small_pairs(tmp_path)]
    for shard in range(3):
        changed = [
            row | {"source": f"source-{(shard + i) % 2}", "pair_id": f"{shard}-{i}"} for i, row in enumerate(rows)
        ]
        store.write_shard("cold_start", f"{shard:05d}", changed)
    return store


def test_an_epoch_visits_rows_of_all_shards_at_most_once(store):
    data = ColdStart(store)
    places = [place for batch in data.epoch(5, 3, 0, 0) for place in batch]
    assert len(places) == len(set(places)) == 35 and {shard for shard, _ in places} == {0, 1, 2}


def test_blocks_hold_one_source_each():
    sources = {0: np.array(["a", "b", "a", "a", "b"]), 1: np.array(["b", "b", "a"])}
    blocks = same_source_blocks(sources, 2, np.random.default_rng(0))
    assert sorted(map(len, blocks)) == [2, 2, 2, 2]
    assert all(len({sources[shard][row] for shard, row in block}) == 1 for block in blocks)


def test_the_batch_of_a_step_depends_on_seed_and_step_alone(store):
    one, other = ColdStart(store), ColdStart(store)
    walked = [batch_of_step(one, step, 5, 3, 7) for step in range(20)]
    assert batch_of_step(other, 17, 5, 3, 7) == walked[17]
    assert batch_of_step(other, 17, 5, 3, 8) != walked[17]
    assert [epoch for epoch, _ in walked] == [0] * 7 + [1] * 7 + [2] * 6
    assert walked[0][1] != walked[7][1], "every epoch has its own order"


def test_a_data_set_smaller_than_a_batch_is_one_batch(store):
    assert len(batch_of_step(ColdStart(store), 0, 1_000, 500, 0)[1]) == 36


def test_a_store_without_rows_is_refused(tmp_path):
    with pytest.raises(ValidationFailed):
        ColdStart(Store(str(tmp_path)))
