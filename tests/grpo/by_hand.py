"""One GRPO step from the equations, by plain forward passes, a rollout at a time: what the trainer is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from schemas.grpo import Grpo
from tests.grpo.table import Given
from umer1_core.backbone.collate import IGNORED, Batch, Encoder, Row, collate
from umer1_core.backbone.forward import hidden_states
from umer1_core.backbone.model import Backbone
from umer1_core.grpo.format import format_problem
from umer1_core.grpo.rollouts.face import Prompt
from umer1_core.grpo.similarity import RewardSettings, embedding_reward
from umer1_core.pairs import Pair
from umer1_core.template import training_prompt
from umer1_core.training.losses import content_keys, contrastive, equal_entries

Rollout = tuple[Row, tuple[int, ...]]


@dataclass(frozen=True)
class Step:
    """Of a block. loss: a scalar with its graph; rewards: [2, N, G]; vectors: the same and width, with its graph."""

    loss: Tensor
    rewards: Tensor
    vectors: Tensor


def given_groups(backbone: Backbone, pairs: Sequence[Pair], group: int) -> list[list[Rollout]]:
    """What `Given` writes, side by side: q1, t1, q2, t2 and so on."""
    given, encoder, groups = Given(backbone), Encoder(backbone, 2_000), []
    for pair in pairs:
        for side in (pair.query, pair.target):
            text = training_prompt(side.text)
            row = encoder.encode(text, side.media)
            (made,) = given.sample([Prompt(side.key, text, side.media, row)], group, 0)
            groups.append([(row, c.ids) for c in made])
    return groups


def by_hand(
    backbone: Backbone,
    reference: Backbone,
    pairs: Sequence[Pair],
    grpo: Grpo,
    ratios: Sequence[float] = (),
) -> Step:
    """ratios: policy over sampler of a rollout's first tokens, the same for each rollout; 1 for the others."""
    groups = given_groups(backbone, pairs, grpo.group)
    scored = [[log_probs(backbone, row, ids) for row, ids in group] for group in groups]
    with torch.no_grad():
        expected = [[log_probs(reference, row, ids)[0] for row, ids in group] for group in groups]
    vectors = torch.stack([torch.stack([v for _, v in g]) for g in scored])
    vectors = vectors.view(len(pairs), 2, grpo.group, -1).transpose(0, 1)
    good = formed(backbone, groups)
    rewards = good.float() + embedding_rewards(pairs, good, vectors.detach(), grpo)
    losses = []
    for index, group in enumerate(scored):
        own = rewards[index % 2, index // 2]
        advantages = (own - own.mean()) / (own.std() + 1e-4)
        for place, (logp, _) in enumerate(group):
            weight = torch.ones_like(logp)
            weight[: len(ratios)] = torch.tensor(ratios[: len(logp)])
            ratio = (logp - logp.detach()).exp()
            clipped = ratio.clamp(1 - grpo.epsilon, 1 + (grpo.epsilon_high or grpo.epsilon))
            gain = torch.minimum(ratio * advantages[place], clipped * advantages[place]) * weight
            step = expected[index][place] - logp
            tokens = gain - grpo.beta * (step.exp() - step - 1)
            if grpo.train_sides == "both" or index % 2 == 0:
                losses.append((-tokens.sum(), len(tokens)))
    loss = reduced(losses, grpo)
    if grpo.anchor:
        sides = vectors if grpo.train_sides == "both" else torch.stack([vectors[0], vectors[1].detach()])
        loss = loss + grpo.anchor * anchor(pairs, good, sides, grpo.anchor_temperature)
    return Step(loss, rewards, vectors)


def reduced(losses: Sequence[tuple[Tensor, int]], grpo: Grpo) -> Tensor:
    """Sums over tokens, and how many they are, as a scalar."""
    if grpo.loss_type == "dapo":
        return torch.stack([total for total, _ in losses]).sum() / sum(count for _, count in losses)
    counts = [count if grpo.loss_type == "grpo" else grpo.max_new_tokens for _, count in losses]
    return torch.stack([total / count for (total, _), count in zip(losses, counts, strict=True)]).mean()


def log_probs(backbone: Backbone, row: Row, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Of one rollout by the library's forward pass, and its embedding."""
    states, batch = full_states(backbone, row, ids)
    logits = backbone.model.lm_head(states[:-1]).float().log_softmax(-1)
    labels = batch.labels[0, 1:]
    kept = labels != IGNORED
    at = int((batch.ids[0] == backbone.ids.gen).nonzero()[-1])
    return logits[kept, labels[kept]], normalize(states[at].float(), dim=-1)


def full_states(backbone: Backbone, row: Row, ids: Sequence[int]) -> tuple[Tensor, Batch]:
    """[length, width] of a prompt and what was written, in one pass, and the batch of it."""
    after = row.positions.max() + 1 + torch.arange(len(ids))
    positions = torch.cat([row.positions, after.expand(3, -1)], dim=1)
    batch = collate([Row(row.prompt, tuple(ids), row.pixels, positions)], backbone.ids, backbone.device)
    return hidden_states(backbone, batch)[0], batch


def formed(backbone: Backbone, groups: Sequence[Sequence[Rollout]]) -> Tensor:
    """bool [2, N, G], the rollouts of a good form."""
    decode = backbone.processor.tokenizer.decode
    good = torch.tensor([[not format_problem(ids, backbone.ids, decode) for _, ids in g] for g in groups])
    return good.view(len(groups) // 2, 2, -1).transpose(0, 1)


def equal_of(pairs: Sequence[Pair]) -> Tensor:
    keys = content_keys([p.query.key for p in pairs], [p.target.key for p in pairs])
    return equal_entries(keys[:, 0], keys[:, 1])


def embedding_rewards(pairs: Sequence[Pair], good: Tensor, vectors: Tensor, grpo: Grpo) -> Tensor:
    """[2, N, G]."""
    equal, settings = equal_of(pairs), RewardSettings(min_group_std=grpo.min_group_std)
    asked = embedding_reward(vectors[0], vectors[1], good[0], good[1], equal, settings)
    found = embedding_reward(vectors[1], vectors[0], good[1], good[0], equal.T, settings)
    return torch.stack([asked.value, found.value])


def anchor(pairs: Sequence[Pair], good: Tensor, vectors: Tensor, temperature: float) -> Tensor:
    """Mean over the rounds of InfoNCE between the g-th rollouts of the pairs that have both."""
    rounds = []
    for place in range(good.shape[2]):
        both = good[:, :, place].all(0)
        if int(both.sum()) > 1:
            equal = equal_of(pairs)[both][:, both]
            rounds.append(contrastive(vectors[0, both, place], vectors[1, both, place], temperature, equal))
        else:
            rounds.append(vectors.sum() * 0)
    return torch.stack(rounds).mean()


def gradients(backbone: Backbone) -> dict[str, Tensor]:
    return {n: p.grad for n, p in backbone.model.named_parameters() if p.grad is not None}


def furthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of two gradients, against the largest of the expected."""
    assert found.keys() == expected.keys()
    scale = max(1.0, *(float(g.abs().max()) for g in expected.values()))
    return max(float((found[name] - expected[name]).abs().max()) for name in expected) / scale


def moved(backbone: Backbone) -> Backbone:
    """Away from the reference, so that the divergence and its gradient are not zero."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=random)
    return backbone
