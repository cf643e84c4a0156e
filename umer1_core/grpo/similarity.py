"""The embedding reward of UME-R1 in plain tensors (section 3.3, equation 7; the ablations of table 2).

Guarantees: pure functions of a whole block, no I/O, no distributed state, no gradient. Similarities are in fp32 or
wider whatever the precision around. A rollout that is not valid is in no pool and earns 0. A tie between a positive and
a negative counts against the positive, as in `umer1_core.retrieval`: a constant embedding is ranked 0. The order of the
pairs, and of the rollouts in a group, changes nothing.

A group is the G rollouts of one side of one pair. Its positives are the valid rollouts of the pair's other side; its
negatives are those of all other pairs, without the ones whose content is right for it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from umer1_core.errors import RecipeError

Form = Literal["product", "no_gap", "no_ranking", "threshold"]
Negatives = Literal["all", "hardest", "softmax"]

# Products of equal vectors are rounded differently by their column; similarities within this many eps are a tie.
_TIE_EPS = 8


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """How the embedding reward is made of similarities. The defaults are the paper's.

    form: `product` is equation 7; `no_gap` is ranking alone and `no_ranking` gap alone (table 2, rows 3 and 4);
    `threshold` is the share of the positives more similar than `threshold` (row 5), whatever the negatives.

    negatives: what the gap is measured from. `all`: their mean; `hardest`: the mean of the `hardest_k` most similar;
    `softmax`: the mean weighted by softmax(similarity / `softmax_temperature`), as in Embed-RL. Ranking uses all.

    min_group_std: a group whose values spread less (unbiased, over its valid rollouts) gets their mean instead: the
    advantage divides by that spread, and would blow the noise of the embeddings up to the size of a signal.
    """

    form: Form = "product"
    threshold: float = 0.5
    negatives: Negatives = "all"
    hardest_k: int = 8
    softmax_temperature: float = 0.5
    min_group_std: float = 0.0

    def __post_init__(self) -> None:
        if self.hardest_k < 1 or self.softmax_temperature <= 0 or self.min_group_std < 0:
            raise RecipeError(
                f"The embedding reward cannot be made with {self}.",
                "Set hardest_k to 1 or more, softmax_temperature above 0, min_group_std to 0 or more.",
            )


@dataclass(frozen=True, slots=True)
class EmbeddingReward:
    """Each [N, G], in the type it was computed in; 0 for a rollout that is not valid.

    ranking: in 0 to 1; gap: of similarities, may be negative; value: the reward, by the settings' form.
    Where a group has no positive or no negative left there is nothing to tell apart: ranking and gap are 0.
    """

    ranking: Tensor
    gap: Tensor
    value: Tensor


@torch.no_grad()
def embedding_reward(
    anchor: Tensor,
    other: Tensor,
    anchor_valid: Tensor,
    other_valid: Tensor,
    not_negative: Tensor | None,
    settings: RewardSettings,
) -> EmbeddingReward:
    """Equation 7 for every rollout of the anchor's side against all rollouts of the other side.

    anchor: [N, G, width], other: [N, H, width], one type, of unit length, n of one side paired with n of the other;
    where a rollout is not valid its vector may hold anything. anchor_valid: bool [N, G]; other_valid: bool [N, H].
    not_negative: bool [N, N], True where group m is no negative of group n, see `training.losses.equal_entries`.
    With V < H valid positives, `top_G` and the division by G are with V. Values are not finite where a valid vector is
    not. Holds one matrix [N·G, N·H] at the peak; two with `softmax`.
    """
    anchor, other = _clean(anchor, anchor_valid), _clean(other, other_valid)
    scores, pool = _similarities(anchor, other), _pool(not_negative, other_valid)
    groups = torch.arange(len(anchor), device=anchor.device)
    positives, count = scores[groups, :, groups], pool.sum((1, 2))
    away = ~pool.unsqueeze(1).flatten(2)
    negatives = scores.flatten(2).masked_fill_(away, float("-inf"))
    top = _largest(negatives, max(other.shape[1], settings.hardest_k))
    has_positive = anchor_valid & other_valid.any(1, keepdim=True)
    told = has_positive & (count > 0).unsqueeze(1)
    ranking = torch.where(told, _ranking(positives, other_valid, top), 0.0)
    if settings.negatives == "softmax":
        negative_mean = _softmax_mean(negatives, away, top, settings.softmax_temperature)
    elif settings.negatives == "hardest":
        negative_mean = _hardest_mean(top, count, settings.hardest_k)
    else:
        negative_mean = _plain_mean(anchor, other, pool, count)
    gap = torch.where(told, _mean(positives, other_valid) - negative_mean, 0.0)
    near = torch.where(has_positive, _mean((positives > settings.threshold).to(gap.dtype), other_valid), 0.0)
    value = {"product": ranking * gap, "no_gap": ranking, "no_ranking": gap, "threshold": near}[settings.form]
    return EmbeddingReward(ranking, gap, _without_noise(value, anchor_valid, settings.min_group_std))


@dataclass(frozen=True, slots=True)
class Nearest:
    """The groups of the other side a rollout is most similar to, best first. Both [N, G, k], k at most N.

    groups: -1 where there is none, because the rollout or all of the group's are not valid; similarity: -inf there.
    """

    groups: Tensor
    similarity: Tensor


@torch.no_grad()
def nearest(anchor: Tensor, other: Tensor, anchor_valid: Tensor, other_valid: Tensor, k: int) -> Nearest:
    """For looking at rollouts: what each of them retrieves, by its mean similarity to a group's valid rollouts.

    Shapes as in `embedding_reward`. The rollout's own pair is among the groups; of equal ones the first comes first.
    """
    members = other_valid.sum(1)
    centres = _clean(other, other_valid).sum(1) / members.clamp(min=1).unsqueeze(1)
    there = members > 0
    scores = _similarities(_clean(anchor, anchor_valid), centres.unsqueeze(1)).squeeze(3)
    scores.masked_fill_(~(anchor_valid.unsqueeze(2) & there), float("-inf"))
    ordered = scores.sort(dim=2, descending=True, stable=True)
    best = ordered.values[..., :k]
    return Nearest(torch.where(best.isfinite(), ordered.indices[..., :k], -1), best)


def _clean(vectors: Tensor, valid: Tensor) -> Tensor:
    """In fp32 or wider; zero where not valid: nothing that stands there, not even NaN, reaches a sum."""
    wide = torch.promote_types(vectors.dtype, torch.float32)
    return torch.where(valid.unsqueeze(2), vectors, 0.0).to(wide)


def _similarities(anchor: Tensor, other: Tensor) -> Tensor:
    """[N, G, M, H], all products of both, in their own type."""
    with torch.autocast(anchor.device.type, enabled=False):
        products = anchor.flatten(0, 1) @ other.flatten(0, 1).T
    return products.view(*anchor.shape[:2], *other.shape[:2])


def _pool(not_negative: Tensor | None, valid: Tensor) -> Tensor:
    """Bool [N, N, H], True where a rollout of group m is a negative of group n."""
    foreign = ~torch.eye(len(valid), dtype=torch.bool, device=valid.device)
    if not_negative is not None:
        foreign &= ~not_negative
    return foreign.unsqueeze(2) & valid


def _largest(negatives: Tensor, k: int) -> Tensor:
    """[N, G, k], best first; fewer where there are fewer places. -inf after the last negative."""
    return negatives.topk(min(k, negatives.shape[2]), dim=2).values


def _hardest_mean(top: Tensor, count: Tensor, k: int) -> Tensor:
    """[N, G], the mean of the k largest negatives, or of all where there are fewer."""
    hardest = top[..., :k]
    return _mean(hardest, torch.arange(hardest.shape[2], device=top.device) < count.unsqueeze(1))


def _plain_mean(anchor: Tensor, other: Tensor, pool: Tensor, count: Tensor) -> Tensor:
    """[N, G], 0 without negatives: the similarity to their sum, which needs no matrix of all."""
    with torch.autocast(anchor.device.type, enabled=False):
        sums = pool.flatten(1).to(other.dtype) @ other.flatten(0, 1)
        return (anchor @ sums.unsqueeze(2)).squeeze(2) / count.clamp(min=1).unsqueeze(1)


def _softmax_mean(negatives: Tensor, away: Tensor, top: Tensor, temperature: float) -> Tensor:
    """[N, G], NaN where there is no negative. In place where it can be: every temporary is as large as all of them."""
    weights = (negatives - top[..., :1]).div_(temperature).exp_()
    sums = weights.sum(2)
    return weights.mul_(negatives.masked_fill_(away, 0.0)).sum(2) / sums


def _ranking(positives: Tensor, valid: Tensor, top: Tensor) -> Tensor:
    """[N, G], the share of the V valid positives that are among the V largest of all, 0 without any.

    positives: [N, G, H]; valid: [N, H]; top: [N, G, k], the largest negatives, H or more of them, or all there are.
    The j-th largest positive is among them where j plus the negatives that reach it are not more than V.
    """
    most = positives.shape[2]
    count = valid.sum(1).view(-1, 1, 1)
    ordered = positives.masked_fill(~valid.unsqueeze(1), float("-inf")).sort(dim=2, descending=True).values
    tie = _TIE_EPS * torch.finfo(positives.dtype).eps
    reach = (top[..., :most].unsqueeze(2) >= ordered.unsqueeze(3) - tie).sum(3)
    place = torch.arange(1, most + 1, device=positives.device)
    return (place + reach <= count).sum(2).to(positives.dtype) / count.squeeze(2).clamp(min=1)


def _mean(values: Tensor, there: Tensor) -> Tensor:
    """[N, G], over the last dimension of [N, G, k] where `there` [N, k]; 0 where nothing is."""
    kept = torch.where(there.unsqueeze(1), values, 0.0)
    return kept.sum(2) / there.sum(1, keepdim=True).clamp(min=1)


def _without_noise(values: Tensor, valid: Tensor, min_std: float) -> Tensor:
    """[N, G]: the group's mean instead of values that spread less than `min_std`; 0 where not valid."""
    count = valid.sum(1, keepdim=True)
    mean = torch.where(valid, values, 0.0).sum(1, keepdim=True) / count.clamp(min=1)
    squares = torch.where(valid, (values - mean).square(), 0.0).sum(1, keepdim=True)
    std = (squares / (count - 1).clamp(min=1)).sqrt()
    return torch.where(valid, torch.where(std < min_std, mean, values), 0.0)
