"""Equation 7 against brute force over all subsets, against the released code, and by its laws."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.nn.functional import normalize

from tests.grpo.brute import brute_force, fewest_positives_on_top, released
from umer1_core.errors import RecipeError
from umer1_core.grpo.similarity import EmbeddingReward, RewardSettings, embedding_reward, nearest
from umer1_core.training.losses import equal_entries

PAPER = RewardSettings()
SETTINGS = [
    *(RewardSettings(form) for form in ("product", "no_gap", "no_ranking", "threshold")),
    RewardSettings(negatives="hardest", hardest_k=2),
    RewardSettings(negatives="hardest", hardest_k=100),
    RewardSettings(negatives="softmax", softmax_temperature=0.3),
    RewardSettings("no_ranking", min_group_std=1 / math.pi),
]


EVERY = pytest.mark.parametrize(
    "how", SETTINGS, ids=lambda how: f"{how.form}-{how.negatives}-{how.hardest_k}-{how.min_group_std:.1f}"
)


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def all_valid(vectors: torch.Tensor) -> torch.Tensor:
    return torch.ones(vectors.shape[:2], dtype=torch.bool)


def reward(anchor, other, anchor_valid=None, other_valid=None, not_negative=None, how=PAPER) -> EmbeddingReward:
    anchor_valid = all_valid(anchor) if anchor_valid is None else anchor_valid
    other_valid = all_valid(other) if other_valid is None else other_valid
    return embedding_reward(anchor, other, anchor_valid, other_valid, not_negative, how)


def of_matrix(similarities: torch.Tensor, how: RewardSettings = PAPER) -> EmbeddingReward:
    """Of given similarities [N, G, N, H]: against unit vectors along the axes they are the anchors' own numbers."""
    count, _, _, others = similarities.shape
    axes = torch.eye(count * others, dtype=similarities.dtype).view(count, others, -1)
    return reward(similarities.flatten(2), axes, how=how)


@st.composite
def blocks(draw):
    """Both sides with many ties, some rollouts malformed, some targets equal; N, G and H from 1."""
    pairs, group, others = (draw(st.integers(1, most)) for most in (4, 3, 3))
    steps = st.integers(-2, 2)
    anchor, other = (draw(hnp.arrays(np.float64, (pairs, size, 2), elements=steps)) / 2 for size in (group, others))
    flags = [draw(hnp.arrays(bool, shape)) for shape in ((pairs, group), (pairs, others))]
    keys = torch.tensor([draw(st.integers(0, 2 * pairs)) for _ in range(2 * pairs)]).view(2, pairs)
    return anchor, other, *flags, equal_entries(*keys)


# ── Against other computations ───────────────────────────────────────────────────────────────────────────────────────


@EVERY
@settings(deadline=None, max_examples=100)
@given(block=blocks())
def test_it_is_equation_7_over_all_subsets(how, block):
    anchor, other, anchor_valid, other_valid, not_negative = block
    expected = brute_force(anchor, other, anchor_valid, other_valid, not_negative.tolist(), how)
    for dtype, error in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        vectors = (torch.from_numpy(side).to(dtype) for side in (anchor, other))
        ours = embedding_reward(
            *vectors, torch.from_numpy(anchor_valid), torch.from_numpy(other_valid), not_negative, how
        )
        for ours_part, part in zip((ours.ranking, ours.gap, ours.value), expected, strict=True):
            assert ours_part.dtype == dtype
            assert torch.allclose(ours_part, torch.tensor(part, dtype=dtype), rtol=0, atol=error)


def test_brute_force_takes_the_worst_of_tied_subsets():
    assert fewest_positives_on_top([0.5, 0.9], [0.5, 0.1]) == 1
    assert fewest_positives_on_top([0.5, 0.9], [0.4, 0.1]) == 2
    assert fewest_positives_on_top([0.5, 0.5], [0.5, 0.5]) == 0


def test_it_is_equation_7_worked_out_by_hand():
    """One negative target, G = 2, as the paper writes it: one query and its first rollout's two sets."""
    similarities = torch.zeros(2, 2, 2, 2, dtype=torch.float64)
    similarities[0, 0] = torch.tensor([[0.9, 0.3], [0.5, 0.1]])  # S⁺, S⁻: of the top two, one is positive
    similarities[0, 1] = torch.tensor([[0.8, 0.7], [0.6, 0.2]])
    ours = of_matrix(similarities)
    assert ours.ranking[0].tolist() == [0.5, 1.0]
    assert ours.gap[0].tolist() == pytest.approx([0.3, 0.35])
    assert ours.value[0].tolist() == pytest.approx([0.15, 0.35])
    assert ours.value[1].tolist() == [0, 0]  # all tied


@pytest.mark.parametrize(("pairs", "group"), [(16, 8), (2, 8), (5, 1), (3, 2)])
def test_it_is_what_the_released_code_computes(pairs, group):
    size = pairs * group
    similarities = np.random.default_rng(size).uniform(-1, 1, (size, size)) + np.kron(
        np.eye(pairs), np.ones((group, group))
    )
    ours = of_matrix(torch.from_numpy(similarities).view(pairs, group, pairs, group))
    expected = released(similarities, group)
    assert len(set(expected)) > 2
    assert np.allclose(ours.value.flatten().numpy(), expected, rtol=0, atol=1e-12)


# ── Laws ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@EVERY
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31))
def test_the_order_of_pairs_and_of_rollouts_changes_nothing(how, seed):
    draw = torch.Generator().manual_seed(seed)
    pairs, group, others = 5, 3, 4
    anchor, other = unit(pairs, group, 6, seed=seed), unit(pairs, others, 6, seed=seed + 1)
    valid = [torch.rand(pairs, size, generator=draw) < 0.8 for size in (group, others)]
    mask = torch.rand(pairs, pairs, generator=draw) < 0.3
    moved, first, second = (torch.randperm(size, generator=draw) for size in (pairs, group, others))
    plain = embedding_reward(anchor, other, *valid, mask, how)
    mixed = embedding_reward(
        anchor[moved][:, first],
        other[moved][:, second],
        valid[0][moved][:, first],
        valid[1][moved][:, second],
        mask[moved][:, moved],
        how,
    )
    assert torch.allclose(mixed.value, plain.value[moved][:, first], rtol=0, atol=1e-12)
    assert torch.equal(mixed.ranking, plain.ranking[moved][:, first])


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31))
@example(seed=0)
def test_a_malformed_rollout_is_as_good_as_absent_whatever_its_vector_holds(seed):
    draw = torch.Generator().manual_seed(seed)
    anchor, other = unit(4, 3, 5, seed=seed), unit(4, 3, 5, seed=seed + 1)
    keep = [int(torch.randint(1, 4, (), generator=draw)) for _ in "ao"]
    valid = [torch.arange(3).expand(4, 3) < count for count in keep]
    broken = [
        torch.where(there.unsqueeze(2), side, math.nan) for side, there in zip((anchor, other), valid, strict=True)
    ]
    for how in SETTINGS:
        ours = reward(*broken, *valid, how=how)
        alone = reward(anchor[:, : keep[0]], other[:, : keep[1]], how=how)
        assert torch.allclose(ours.value[:, : keep[0]], alone.value, rtol=0, atol=1e-12)
        assert (ours.value[:, keep[0] :] == 0).all()
    assert not nearest(*broken, *valid, 4).similarity.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_constant_embedding_earns_nothing(dtype):
    same = unit(1, 1, 1536).to(dtype).expand(40, 8, -1)
    ours = reward(same, same)
    assert (ours.ranking == 0).all()
    assert (ours.value == 0).all()


def test_a_perfect_retriever_earns_one():
    axes = torch.eye(6).unsqueeze(1).expand(-1, 4, -1)
    assert (reward(axes, axes).value == 1).all()


@EVERY
def test_one_pair_alone_and_a_block_of_malformed_rollouts_have_nothing_to_tell_apart(how):
    one, none = unit(1, 4, 8), torch.zeros(3, 4, dtype=torch.bool)
    alone = reward(one, one, how=how)
    assert (alone.ranking == 0).all()
    assert (alone.gap == 0).all()
    malformed = reward(unit(3, 4, 8), unit(3, 4, 8, seed=1), none, none, how=how)
    assert (torch.stack([malformed.ranking, malformed.gap, malformed.value]) == 0).all()


def test_the_threshold_asks_positives_alone():
    similarities = torch.tensor([0.9, 0.6, 0.5, 0.4]).view(1, 1, 1, 4)
    assert of_matrix(similarities, RewardSettings("threshold")).value.item() == 0.5


def test_equal_targets_are_no_negatives_of_each_other():
    queries = torch.eye(3)[[0, 1, 2]].unsqueeze(1).expand(-1, 2, -1)
    targets = torch.eye(3)[[0, 0, 2]].unsqueeze(1).expand(-1, 2, -1)
    keys = torch.tensor([[0, 1, 2], [7, 7, 9]])
    assert reward(queries, targets).value[0].tolist() == [0, 0]
    masked = reward(queries, targets, not_negative=equal_entries(*keys))
    assert masked.value[0].tolist() == [1, 1]
    everything = torch.ones(3, 3, dtype=torch.bool)
    assert (reward(queries, targets, not_negative=everything).value == 0).all()


def test_similarities_are_in_fp32_inside_autocast_and_no_gradient_is_kept():
    queries, targets = (unit(6, 4, 64, seed=seed, dtype=torch.float32).bfloat16() for seed in (0, 1))
    expected = reward(queries.float(), targets.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = reward(queries.requires_grad_(), targets)
        rounded = queries[0].float() @ targets[0].float().T
    assert rounded.dtype == torch.bfloat16  # what autocast does to a product that is not kept out of it
    assert ours.value.dtype == torch.float32
    assert not ours.value.requires_grad
    assert torch.equal(ours.gap, expected.gap)


def test_rounding_vectors_to_bf16_moves_a_gap_by_two_roundings_at_most():
    queries, targets = unit(16, 8, 256, dtype=torch.float32), unit(16, 8, 256, seed=1, dtype=torch.float32)
    moved = reward(queries.bfloat16(), targets.bfloat16()).gap - reward(queries, targets).gap
    assert 0 < moved.abs().max() < 2 * 2**-8


# ── Settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_group_whose_values_are_noise_gets_their_mean():
    similarities = torch.zeros(2, 3, 2, 3, dtype=torch.float64)
    similarities[0, :, 0] = torch.tensor([0.5, 0.5001, 0.4999]).unsqueeze(1)
    similarities[1, :, 1] = torch.tensor([0.9, 0.5, 0.1]).unsqueeze(1)
    how = RewardSettings(min_group_std=0.01)
    plain, ours = of_matrix(similarities).value, of_matrix(similarities, how).value
    assert plain[0].std() > 0
    assert ours[0].tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert ours[0].std() < 1e-15
    assert torch.equal(ours[1], plain[1])
    assert plain[1].std(unbiased=False) < 0.35 < plain[1].std()
    assert torch.equal(of_matrix(similarities, RewardSettings(min_group_std=0.35)).value[1], plain[1])


def test_harder_negatives_make_the_gap_smaller():
    queries, targets = unit(6, 3, 4), unit(6, 3, 4, seed=1)
    weighted = [replace(PAPER, negatives="softmax", softmax_temperature=t) for t in (1e6, 0.5, 1e-4)]
    easy, middle, hard = (reward(queries, targets, how=how).gap for how in weighted)
    assert torch.allclose(easy, reward(queries, targets).gap, atol=1e-5)
    assert ((easy > middle) & (middle > hard)).all()
    hardest = reward(queries, targets, how=replace(PAPER, negatives="hardest", hardest_k=1)).gap
    assert torch.allclose(hard, hardest, atol=1e-3)


@pytest.mark.parametrize("wrong", [{"hardest_k": 0}, {"softmax_temperature": 0.0}, {"min_group_std": -0.1}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(RecipeError):
        RewardSettings(**wrong)


# ── Neighbours ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_nearest_groups_come_first_by_their_mean_similarity():
    queries = torch.eye(3).unsqueeze(1)
    targets = torch.tensor([[[0.9, 0.2, 0], [0.7, 0.4, 0]], [[0.5, 0, 0], [0, 9, 0]], [[0, 0, 1], [0, 0, 1]]])
    only_first = torch.tensor([[True, True], [True, False], [True, True]])
    found = nearest(queries, targets, all_valid(queries), only_first, 2)
    assert found.groups.squeeze(1).tolist() == [[0, 1], [0, 1], [2, 0]]
    assert torch.allclose(found.similarity[0, 0], torch.tensor([0.8, 0.5]))
    same = torch.ones(100, 1, 1)
    assert nearest(same, same, all_valid(same), all_valid(same), 3).groups[50, 0].tolist() == [0, 1, 2]


def test_what_is_malformed_has_no_neighbours_and_is_none():
    queries, targets = unit(3, 2, 4), unit(3, 2, 4, seed=1)
    asked, there = all_valid(queries), all_valid(targets)
    asked[0, 1], there[2] = False, False
    found = nearest(queries, targets, asked, there, 9)
    assert found.groups.shape == (3, 2, 3)
    assert found.groups[0, 1].tolist() == [-1, -1, -1]
    assert (found.groups != 2).all()
    assert found.groups[1, 1, 2] == -1
    assert found.similarity[1, 1, 2] == -math.inf
