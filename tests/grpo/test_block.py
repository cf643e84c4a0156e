"""The rollouts of a block as the rewards take them."""

from dataclasses import replace

import pytest
import torch

from tests.grpo.table import Given, pairs_of, rl_store
from tests.student import small_student
from umer1_core.backbone.collate import Encoder
from umer1_core.grpo.block import gather_block
from umer1_core.grpo.pairs import RLPairs
from umer1_core.grpo.rolled import Rolled
from umer1_core.grpo.sides import SideReader
from umer1_core.training.data.pair_table import Rejection
from umer1_core.training.ranks import join_ranks

G, WIDTH = 2, 3


@pytest.fixture(scope="module")
def rolled(tmp_path_factory):
    """Four pairs of which the third was rejected; the second has the target of the first."""
    folder = tmp_path_factory.mktemp("block")
    pairs = pairs_of(folder)[:4]
    pairs[1] = replace(pairs[1], target=pairs[0].target)
    reader = SideReader(RLPairs(rl_store(folder, pairs)), Encoder(small_student(), 2_000))
    read = reader.read(range(4))
    reader.close()
    read[2] = Rejection(pairs[2].pair_id, pairs[2].source, "empty_side", "target: nothing")
    given = Given(small_student())
    completions = tuple(
        () if isinstance(pair, Rejection) else tuple(tuple(made) for made in given.sample(pair.prompts, G, 0))
        for pair in read
    )
    completions = tuple(sides or ((), ()) for sides in completions)
    texts = tuple(tuple(tuple(f"{i} {s} {g}" for g in range(len(c))) for s, c in enumerate(sides))
                  for i, sides in enumerate(completions))  # fmt: skip
    problems = tuple(tuple(tuple("" if g else "no_think" for g in range(len(c))) for c in sides)
                     for sides in completions)  # fmt: skip
    vectors = torch.arange(4 * 2 * G * WIDTH, dtype=torch.float32).view(4, 2, G, WIDTH)
    return Rolled(tuple(read), completions, texts, problems, vectors, G)


def test_rollouts_stand_queries_before_targets_in_the_order_of_their_vectors(rolled):
    block = gather_block(rolled, join_ranks(), mask_equal=True).rollouts
    assert block.vectors.shape == (2, 4, G, WIDTH)
    for place, (side, pair, g) in enumerate((s, p, g) for s in (0, 1) for p in range(4) for g in range(G)):
        assert torch.equal(block.vectors.flatten(0, 2)[place], rolled.vectors[pair, side, g])
        if pair == 2:
            assert block.ids[place] == () and block.texts[place] == "" and block.problems[place] == "empty_side"
            continue
        assert block.ids[place] == rolled.completions[pair][side][g].ids
        assert block.texts[place] == f"{pair} {side} {g}"
        assert block.sides[side * 4 + pair] == rolled.pairs[pair].sides[side]


def test_a_rejected_pair_keeps_its_place_and_is_valid_nowhere(rolled):
    whole = gather_block(rolled, join_ranks(), mask_equal=True)
    assert whole.used.tolist() == rolled.used == [True, True, False, True]
    assert whole.pair_ids == [pair.pair_id for pair in rolled.pairs]
    assert not whole.rollouts.valid[:, 2].any()
    assert torch.equal(whole.rollouts.valid[:, [0, 1, 3]], torch.tensor([False, True]).expand(2, 3, 2))


def test_pairs_of_one_target_are_no_negatives_of_each_other_where_that_is_wanted(rolled):
    equal = gather_block(rolled, join_ranks(), mask_equal=True).rollouts.not_negative
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[0, 1] = expected[1, 0] = True
    assert torch.equal(equal, expected)
    assert gather_block(rolled, join_ranks(), mask_equal=False).rollouts.not_negative is None
