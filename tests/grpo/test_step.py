"""One GRPO step by hand, from the equations, against the trainer's."""

import math

import pytest
import torch
from torch import Tensor

from tests.grpo.table import TINY, Given, make_trainer, pairs_of, rl_store, saved_student
from umer1_core.backbone.collate import IGNORED, Encoder, Row, collate
from umer1_core.backbone.forward import hidden_states
from umer1_core.backbone.model import Backbone, load_backbone
from umer1_core.grpo.format import format_problem
from umer1_core.grpo.rollouts.face import Prompt
from umer1_core.grpo.similarity import RewardSettings, embedding_reward
from umer1_core.template import training_prompt
from umer1_core.training.losses import content_keys, equal_entries


def by_hand(backbone: Backbone, reference: Backbone, pairs, grpo) -> tuple[Tensor, dict]:
    """The loss of a block by plain forward passes, one rollout at a time, and every rollout's reward."""
    given, encoder = Given(backbone), Encoder(backbone, 2_000)
    groups = []
    for pair in pairs:
        for side in (pair.query, pair.target):
            text = training_prompt(side.text)
            row = encoder.encode(text, side.media)
            (made,) = given.sample([Prompt(side.key, text, side.media, row)], grpo.group, 0)
            groups.append([(row, c.ids) for c in made])
    scored = [[log_probs(backbone, row, ids) for row, ids in group] for group in groups]
    with torch.no_grad():
        expected = [[log_probs(reference, row, ids)[0] for row, ids in group] for group in groups]
    rewards = rewards_of(backbone, pairs, groups, scored, grpo)
    losses = []
    for index, group in enumerate(scored):
        own = rewards[index % 2, index // 2]
        advantages = (own - own.mean()) / (own.std() + 1e-4)
        for place, (logp, _) in enumerate(group):
            ratio = (logp - logp.detach()).exp()
            clipped = ratio.clamp(1 - grpo.epsilon, 1 + (grpo.epsilon_high or grpo.epsilon))
            gain = torch.minimum(ratio * advantages[place], clipped * advantages[place])
            step = expected[index][place] - logp
            tokens = gain - grpo.beta * (step.exp() - step - 1)
            if grpo.train_sides == "both" or index % 2 == 0:
                count = len(tokens) if grpo.loss_type == "grpo" else grpo.max_new_tokens
                losses.append(-tokens.sum() / count)
    return torch.stack(losses).mean(), rewards


def log_probs(backbone: Backbone, row: Row, ids) -> tuple[Tensor, Tensor]:
    """Of one rollout by the library's forward pass, and its embedding."""
    after = row.positions.max() + 1 + torch.arange(len(ids))
    positions = torch.cat([row.positions, after.expand(3, -1)], dim=1)
    batch = collate([Row(row.prompt, tuple(ids), row.pixels, positions)], backbone.ids, backbone.device)
    hidden = hidden_states(backbone, batch)
    logits = backbone.model.lm_head(hidden[0, :-1]).float().log_softmax(-1)
    labels = batch.labels[0, 1:]
    kept = labels != IGNORED
    at = (batch.ids[0] == backbone.ids.gen).nonzero()[-1]
    vector = torch.nn.functional.normalize(hidden[0, at].float(), dim=-1)[0]
    return logits[kept, labels[kept]], vector


def rewards_of(backbone, pairs, groups, scored, grpo) -> Tensor:
    decode = backbone.processor.tokenizer.decode
    count = len(pairs)
    good = torch.tensor([[not format_problem(ids, backbone.ids, decode) for _, ids in g] for g in groups])
    vectors = torch.stack([torch.stack([v.detach() for _, v in g]) for g in scored])
    good, vectors = (x.view(count, 2, grpo.group, *x.shape[2:]).transpose(0, 1) for x in (good, vectors))
    keys = content_keys([p.query.key for p in pairs], [p.target.key for p in pairs])
    equal = equal_entries(keys[:, 0], keys[:, 1])
    settings = RewardSettings(min_group_std=grpo.min_group_std)
    asked = embedding_reward(vectors[0], vectors[1], good[0], good[1], equal, settings)
    found = embedding_reward(vectors[1], vectors[0], good[1], good[0], equal.T, settings)
    return good.float() + torch.stack([asked.value, found.value])


def gradients(backbone: Backbone) -> dict[str, Tensor]:
    return {n: p.grad for n, p in backbone.model.named_parameters() if p.grad is not None}


def moved(backbone: Backbone) -> Backbone:
    """Away from the reference, so that the divergence and its gradient are not zero."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=random)
    return backbone


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"loss_type": "dr_grpo", "epsilon_high": 0.28},
        {"train_sides": "query"},
        {"micro_pairs": 1, "beta": 0.0},
    ],
    ids=["paper", "released", "queries", "one pair a pass"],
)
def test_a_step_is_the_equations(tmp_path, change):
    grpo = TINY.model_copy(update={"steps": 1, "max_norm": 1e9, "min_group_std": 0.02, **change})
    pairs = pairs_of(tmp_path)
    store = rl_store(tmp_path, pairs)
    trainer, kept = make_trainer(tmp_path, store, grpo)
    moved(trainer.parts.backbone)
    policy = moved(load_backbone(str(saved_student(tmp_path))))
    reference = load_backbone(str(saved_student(tmp_path)))
    rows = trainer.parts.order.rows(0).tolist()
    loss, rewards = by_hand(policy, reference, [pairs[row] for row in rows], grpo)
    loss.backward()
    assert float(rewards.std(-1).max()) > 1e-3  # or nothing would be learned and nothing shown

    trainer.train()

    expected = gradients(policy)
    assert kept.records[0]["reward"] == pytest.approx(rewards.mean().item(), abs=1e-6)
    scale = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in kept.gradients[0].items():
        worst = float((gradient - expected[name]).abs().max())
        assert worst <= 1e-6 * max(1.0, scale), (name, worst, scale)
    assert kept.gradients[0].keys() == expected.keys()
    assert kept.records[0]["grad_norm"] == pytest.approx(
        math.sqrt(sum(float(g.square().sum()) for g in expected.values())), rel=1e-4
    )
