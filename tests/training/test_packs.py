"""Packs of sequences under a token budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umer1_core.training.packs import plan_packs, processed_tokens

LENGTHS = st.lists(st.integers(1, 90), max_size=60)


@given(LENGTHS, st.integers(20, 200))
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_every_sequence_is_in_one_pack_and_no_pack_of_several_is_over_the_budget(layout, lengths, budget):
    packs = plan_packs(lengths, budget, layout)
    assert sorted(i for pack in packs for i in pack) == list(range(len(lengths)))
    for pack in packs:
        size = sum(lengths[i] for i in pack) if layout == "packed" else len(pack) * max(lengths[i] for i in pack)
        assert size <= budget or len(pack) == 1


@given(LENGTHS)
def test_packed_rows_need_few_packs(lengths):
    """First fit in falling order opens a pack only where no other has room: at most one is less than half full."""
    packs = plan_packs(lengths, 100)
    assert sum(sum(lengths[i] for i in pack) <= 50 for pack in packs) <= 1


def test_padding_is_processed_too():
    lengths = [10, 2, 10, 4]
    assert processed_tokens(lengths, [[0, 1, 2, 3], []], "packed") == 26
    assert processed_tokens(lengths, [[0, 2], [3, 1], []], "padded") == 28
    assert processed_tokens([], []) == 0
