"""Rows of the `rl` table as prompts of both sides, or as rejections with a reason."""

import pytest

from tests.grpo.table import pairs_of, poisons, rl_store
from tests.student import small_student
from umer1_core.backbone.collate import Encoder
from umer1_core.grpo.pairs import RLPairs
from umer1_core.grpo.sides import PairPrompts, SideReader
from umer1_core.training.data.pair_table import Rejection


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return pairs_of(tmp_path_factory.mktemp("sides"))


def reader_of(folder, pairs, changes=None):
    return SideReader(RLPairs(rl_store(folder, pairs, changes)), Encoder(small_student(), 2_000))


def test_rows_come_in_the_order_asked_for_whatever_was_begun_ahead(pairs, tmp_path):
    reader = reader_of(tmp_path, pairs)
    reader.ahead([5, 0, 1])
    found = reader.read([4, 1, 5])
    assert [pair.pair_id for pair in found] == [pairs[row].pair_id for row in (4, 1, 5)]
    assert found == reader.read([4, 1, 5])
    reader.close()


def test_a_pair_is_both_its_sides_as_they_were_published(pairs, tmp_path):
    reader = reader_of(tmp_path, pairs)
    for pair, found in zip(pairs, reader.read(range(6)), strict=True):
        assert isinstance(found, PairPrompts)
        query, target = found.prompts
        assert found.sides == (pair.query, pair.target)
        assert (query.key, target.key) == (found.query_key, found.target_key) == (pair.query.key, pair.target.key)
        assert [p.kind for p in query.row.pixels] == [m.kind for m in pair.query.media]
        assert not query.row.response and not target.row.pixels
    reader.close()


def test_a_row_that_cannot_be_used_is_a_rejection_with_its_reason_and_role(pairs, tmp_path):
    found = poisons(tmp_path)
    reader = reader_of(tmp_path, pairs, dict(enumerate(found.values())))
    read = reader.read(range(6))
    rejections = read[: len(found)]
    assert all(isinstance(pair, Rejection) for pair in rejections)
    assert [r.reason for r in rejections] == list(found)
    assert [r.pair_id for r in rejections] == [pair.pair_id for pair in pairs[: len(found)]]
    for rejection, columns in zip(rejections, found.values(), strict=True):
        assert rejection.detail.startswith(f"{next(iter(columns)).split('_')[0]}: ")
    assert isinstance(read[5], PairPrompts)  # the row that nobody touched
    reader.close()
