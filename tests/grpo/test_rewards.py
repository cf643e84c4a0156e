"""Rewards as callables: both sides of a block, components apart, other embedders and rewards plugged in."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from umer1_core.errors import Fatal, RecipeError
from umer1_core.grpo.rewards import RolloutBlock, SimilarityReward, format_reward, score, total
from umer1_core.grpo.similarity import RewardSettings, embedding_reward
from umer1_core.pairs import Side

PAIRS, GROUP = 3, 2


def block() -> RolloutBlock:
    """The second rollout of the first query has no end; the first pair's target is right for the last query too."""
    draw = torch.Generator().manual_seed(0)
    problems = ["", "truncated", *[""] * (2 * PAIRS * GROUP - 2)]
    not_negative = torch.zeros(PAIRS, PAIRS, dtype=torch.bool)
    not_negative[2, 0] = True
    return RolloutBlock(
        vectors=normalize(torch.randn(2, PAIRS, GROUP, 8, generator=draw), dim=-1),
        valid=torch.tensor([not problem for problem in problems]).view(2, PAIRS, GROUP),
        not_negative=not_negative,
        sides=[Side(f"side {i}") for i in range(2 * PAIRS)],
        ids=[[i] for i in range(2 * PAIRS * GROUP)],
        texts=["word " * i for i in range(2 * PAIRS * GROUP)],
        problems=problems,
    )


def test_the_format_reward_is_one_for_strict_adherence():
    expected = torch.ones(2, PAIRS, GROUP)
    expected[0, 0, 1] = 0
    assert torch.equal(format_reward(block())["format"], expected)


def test_the_embedding_reward_asks_each_side_against_the_other():
    made, how = block(), RewardSettings(negatives="hardest", hardest_k=2)
    (queries, targets), (query_valid, target_valid) = made.vectors, made.valid
    asked = embedding_reward(queries, targets, query_valid, target_valid, made.not_negative, how)
    found = embedding_reward(targets, queries, target_valid, query_valid, made.not_negative.T, how)
    ours = SimilarityReward(how)(made)
    for name, part in (("embedding", "value"), ("ranking", "ranking"), ("gap", "gap")):
        assert torch.equal(ours[name], torch.stack([getattr(asked, part), getattr(found, part)]))
    wrong_way = embedding_reward(targets, queries, target_valid, query_valid, made.not_negative, how)
    assert not torch.equal(wrong_way.value, found.value)


def test_another_embedder_and_a_reward_of_the_reasoning_can_be_plugged_in():
    def frozen(block):
        axes = torch.eye(PAIRS).view(1, PAIRS, 1, PAIRS)
        return axes.expand(2, -1, GROUP, -1)

    def brevity(block):
        return {"brevity": torch.tensor([1 / (1 + len(text.split())) for text in block.texts]).view(block.valid.shape)}

    made = score(
        block(), [format_reward, SimilarityReward(), SimilarityReward(embed=frozen, prefix="frozen_"), brevity]
    )
    assert list(made)[:4] == ["format", "embedding", "ranking", "gap"]
    assert torch.equal(made["frozen_embedding"], block().valid.float())
    assert made["brevity"][1, 2, 1] == 1 / 12


def test_the_total_is_the_weighted_sum_of_the_components_that_have_a_weight():
    made = score(block(), [format_reward, SimilarityReward()])
    assert torch.equal(total(made, {"format": 1}), made["format"])
    both = total(made, {"format": 0.5, "embedding": 2})
    assert torch.allclose(both, 0.5 * made["format"] + 2 * made["embedding"])
    assert both[0, 0, 1] == 0


@pytest.mark.parametrize("weights", [{}, {"format": 1, "brevity": 1}])
def test_a_weight_without_a_component_is_refused(weights):
    with pytest.raises(RecipeError, match="total reward"):
        total(score(block(), [format_reward]), weights)


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        ([format_reward, format_reward], "Two rewards"),
        ([lambda block: {"flat": torch.zeros(block.valid.numel())}], "shape"),
        ([lambda block: {"broken": torch.full(block.valid.shape, float("nan"))}], "not finite"),
    ],
)
def test_a_reward_that_cannot_be_used_stops_the_run_by_name(rewards, said):
    with pytest.raises(Fatal, match=said):
        score(block(), rewards)


@pytest.mark.parametrize("negatives", ["all", "hardest", "softmax"])
@pytest.mark.parametrize("form", ["product", "no_gap", "threshold"])
def test_an_embedding_that_is_not_finite_is_never_silent(form, negatives):
    made = block()
    made.vectors[1, 1, 0] = float("nan")
    with pytest.raises(Fatal, match="not finite"):
        score(made, [SimilarityReward(RewardSettings(form, negatives=negatives))])


@pytest.mark.parametrize(
    "change",
    [
        {"texts": ["a"]},
        {"problems": []},
        {"ids": []},
        {"sides": []},
        {"vectors": torch.zeros(2, PAIRS, 1, 8)},
        {"not_negative": torch.zeros(2, 2, dtype=torch.bool)},
    ],
)
def test_a_block_whose_parts_do_not_fit_each_other_is_refused(change):
    with pytest.raises(Fatal, match="do not fit"):
        replace(block(), **change)
