"""Blocks of RL pairs, and the order in which TRL sees their sides."""

from collections import Counter

import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from tests.grpo.table import TINY, rl_row, rl_store
from tests.student import cold_start_row
from umer1_core.errors import Fatal, ValidationFailed
from umer1_core.grpo.pairs import PairBlockSampler, RLPairs, make_order, row_and_side, side_index
from umer1_core.grpo.setup import trainer_arguments
from umer1_core.pairs import Pair, Side, pair_id
from umer1_core.store import Store
from umer1_core.training.data.cold_start import ColdStart

SIZES = {"test/a": 9, "test/b": 6, "test/c": 6}  # in blocks of 4: two, one and one, and 1 + 2 + 2 that fill none
N, G = 4, 3


PAIRS = [
    Pair(pair_id(source, str(i)), source, "image", Side(f"Query {i} of {source}"), Side(f"Target {i} of {source}"))
    for source, count in SIZES.items()
    for i in range(count)
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return rl_store(tmp_path_factory.mktemp("pairs"), PAIRS)


@pytest.fixture(scope="module")
def pairs(store):
    return RLPairs(store)


def order_of(pairs, world=1, seed=0):
    return make_order(pairs, N, G, world, seed)


def test_a_block_is_of_one_source_but_for_the_rows_that_fill_none(pairs):
    for epoch in range(3):
        order = order_of(pairs)
        blocks = [order.rows(5 * epoch + i) for i in range(5)]
        sources = [Counter(pairs.sources[pairs.source_codes[row]] for row in block) for block in blocks]
        whole = Counter(next(iter(found)) for found in sources if len(found) == 1)
        assert whole == {"test/a": 2, "test/b": 1, "test/c": 1}
        assert order.epoch(5 * epoch) == order.epoch(5 * epoch + 4) == epoch


def test_an_epoch_has_every_pair_once_but_for_what_fills_no_block(pairs):
    order = order_of(pairs)
    epochs = [[row for i in range(5) for row in order.rows(5 * e + i).tolist()] for e in range(2)]
    assert all(len(rows) == len(set(rows)) == 20 for rows in epochs)
    assert epochs[0] != epochs[1] and len(set(epochs[0]) | set(epochs[1])) == 21
    assert epochs[0] != [row for i in range(5) for row in order_of(pairs, seed=1).rows(i).tolist()]


def test_a_block_needs_no_replay_of_those_before(pairs):
    order = order_of(pairs)
    first = [order.rows(i).tolist() for i in range(12)]
    assert [order_of(pairs).rows(i).tolist() for i in (11, 3, 7)] == [first[11], first[3], first[7]]


def test_rows_stand_as_q1_t1_q2_t2_each_as_often_as_a_group_has_rollouts(pairs):
    order = order_of(pairs)
    expected = [(row, side) for row in order.rows(2).tolist() for side in (0, 1) for _ in range(G)]
    assert [row_and_side(index) for index in order.indices(2)] == expected
    assert all(row_and_side(side_index(row, side)) == (row, side) for row in (0, 7) for side in (0, 1))


def test_every_block_comes_as_often_as_trl_takes_parts_of_it_and_no_more(pairs):
    order = order_of(pairs)
    sampler = PairBlockSampler(order, blocks=3, repeats=4)
    expected = [index for block in range(3) for _ in range(4) for index in order.indices(block)]
    assert list(sampler) == expected and len(sampler) == len(expected)


@pytest.mark.parametrize("world", [2, 4])
def test_a_process_gets_whole_pairs_and_those_of_its_share(pairs, world):
    """By accelerate's own sharding of the batches of one process."""
    order = order_of(pairs, world)
    size = 2 * G * N // world
    for rank in range(world):
        batches = BatchSampler(PairBlockSampler(order, blocks=3, repeats=2), size, drop_last=False)
        own = list(BatchSamplerShard(batches, world, rank))
        assert len(own) == 6
        for place, indices in enumerate(own):
            expected = [row for row in order.share(place // 2, rank).tolist() for _ in range(2 * G)]
            assert [row_and_side(index)[0] for index in indices] == expected


def test_sizes_that_do_not_fit_are_told_with_what_to_do(pairs):
    with pytest.raises(Fatal, match="4 pairs cannot be shared by 3 processes") as caught:
        order_of(pairs, world=3)
    assert "block_pairs" in caught.value.remedy
    with pytest.raises(Fatal, match="21 pairs to train on, a block has 22") as caught:
        make_order(pairs, 22, G, 1, 0)
    assert "rl_pairs" in caught.value.remedy


@pytest.mark.parametrize(("world", "wanted", "given"), [(1, 4, 4), (1, 3, 1), (1, 6, 2), (2, 4, 2), (4, 4, 1)])
def test_a_pass_has_as_many_pairs_as_divide_those_of_a_process_and_a_step_has_all(tmp_path, world, wanted, given):
    found = trainer_arguments(TINY.model_copy(update={"micro_pairs": wanted}), tmp_path, world)
    assert found.per_device_train_batch_size == 2 * given * TINY.group
    assert given * found.gradient_accumulation_steps * world == TINY.block_pairs


def test_the_held_out_slice_of_the_stage_before_is_not_trained_on(store):
    pairs = RLPairs(store, held_out=5, seed=3)
    shown = {record["query_key"] for record in ColdStart(store, 5, 3).held_out_rows()}
    kept_out = {record["query_key"] for record in pairs.rows([i for i in range(21) if not pairs.trainable[i]])}
    assert kept_out == shown and len(shown) == 5
    order = order_of(pairs)
    assert all(pairs.trainable[row] for block in range(8) for row in order.rows(block))


def test_a_table_of_the_held_out_slice_alone_is_refused(store, tmp_path):
    shown = {record["pair_id"] for record in ColdStart(store, 5, 3).held_out_rows()}
    other = Store(str(tmp_path))
    other.write_shard("cold_start", "00000", [cold_start_row(pair) for pair in PAIRS])
    other.write_shard("rl", "00000", [rl_row(pair) for pair in PAIRS if pair.pair_id in shown])
    with pytest.raises(ValidationFailed, match="no rows for reinforcement learning: 5 in all") as caught:
        RLPairs(other, held_out=5, seed=3)
    assert "rl_pairs" in caught.value.remedy
