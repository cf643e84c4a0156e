"""Log-probs, entropies and embeddings of groups: in one pass, in packs, and where there is nothing to score."""

import pytest
import torch

from tests.backbone.families import mixed_rows
from tests.backbone.rollouts import groups_of, scored
from umer1_core.backbone.shared_prefix import Group, blank_media
from umer1_core.grpo.scoring import score_groups, score_in_packs


@pytest.fixture(scope="module")
def backbone():
    return scored("qwen2_vl")


@pytest.fixture(scope="module")
def groups(backbone, tmp_path_factory):
    """Of pictures, clips and text; the last rollout has no `<gen_emb>`."""
    made = groups_of(backbone, mixed_rows(backbone, tmp_path_factory.mktemp("scoring")))
    last = made[-1]
    return [*made[:-1], Group(last.prompt, (*last.completions, (8, 9, 10)))]


@pytest.fixture(scope="module")
def whole(backbone, groups):
    with torch.no_grad():
        return score_groups(backbone.model, backbone, groups, entropies=True, vectors=True)


def lines(backbone, act):
    """How many tokens went through the decoder in each pass of `act`."""
    seen = []
    hook = backbone.model.model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"].numel()), with_kwargs=True
    )
    try:
        act()
    finally:
        hook.remove()
    return seen


def test_values_end_with_their_rollout(whole, groups):
    lengths = [len(ids) for group in groups for ids in group.completions]
    assert whole.log_probs.shape == whole.entropies.shape == (len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        assert (whole.log_probs[row, :length] < 0).all() and (whole.entropies[row, :length] > 0).all()
        assert not whole.log_probs[row, length:].any() and not whole.entropies[row, length:].any()
    norms = whole.vectors.norm(dim=-1)
    assert torch.allclose(norms[:-1], torch.ones_like(norms[:-1])) and norms[-1] == 0


@pytest.mark.parametrize("budget", [1, 150, 10_000])
def test_packs_of_any_size_score_what_one_pass_does_in_the_same_order(backbone, groups, whole, budget):
    packed = score_in_packs(backbone.model, backbone, groups, budget, vectors=True)
    assert torch.allclose(packed.log_probs, whole.log_probs, atol=1e-5)
    assert torch.allclose(packed.vectors, whole.vectors, atol=1e-5)
    assert packed.processed == whole.processed


def test_packs_stay_under_their_budget_and_are_as_many_as_other_ranks_make(backbone, groups):
    sizes = [group.tokens() for group in groups]
    budget = max(sizes) + 10
    passes = lines(
        backbone, lambda: score_in_packs(backbone.model, backbone, groups, budget, vectors=True, passes=lambda _: 9)
    )
    assert len(passes) == 9 and max(passes) <= budget
    assert sorted(passes)[:3] == [1, 1, 1] and sum(passes) == sum(sizes) + passes.count(1)


def test_nothing_to_score_runs_the_layers_and_gives_a_zero_to_go_back_from(backbone):
    nothing = score_groups(backbone.model, backbone, [], entropies=True, vectors=True, blanks=blank_media(backbone))
    assert nothing.log_probs.shape == nothing.entropies.shape == (0, 0) and nothing.vectors.shape[0] == 0
    backbone.model.zero_grad()
    nothing.anything.backward()
    touched = {name for name, p in backbone.model.named_parameters() if p.grad is not None}
    assert nothing.anything == 0 and touched == {name for name, _ in backbone.model.named_parameters()}
    assert not any(p.grad.any() for p in backbone.model.parameters())
    backbone.model.zero_grad()
    empty = score_in_packs(backbone.model, backbone, [], 100, vectors=True)
    assert empty.log_probs.shape == (0, 0) and empty.vectors is None


def test_blanks_change_no_value(backbone, groups):
    text = [group for group in groups if not group.prompt.pixels]
    assert text
    with torch.no_grad():
        plain = score_groups(backbone.model, backbone, text, vectors=True)
        kept = score_groups(backbone.model, backbone, text, vectors=True, blanks=blank_media(backbone))
    assert torch.allclose(plain.log_probs, kept.log_probs, atol=1e-6)
    assert torch.allclose(plain.vectors, kept.vectors, atol=1e-6)
    assert kept.processed == plain.processed + 2
