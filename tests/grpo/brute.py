"""Equation 7 as it is written, number by number, and the released code's formula: what the rewards are held against."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from umer1_core.grpo.similarity import RewardSettings

Rollout = Sequence[float]
Side = Sequence[Sequence[Rollout]]
Flags = Sequence[Sequence[bool]]


def brute_force(
    anchor: Side, other: Side, anchor_valid: Flags, other_valid: Flags, not_negative: Flags, settings: RewardSettings
) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
    """(ranking, gap, value), each [N][G]."""
    made = []
    for n, group in enumerate(anchor):
        pools = [
            [vector for vector, valid in zip(other[m], other_valid[m], strict=True) if valid] for m in range(len(other))
        ]
        wrong = [vector for m, pool in enumerate(pools) if m != n and not not_negative[n][m] for vector in pool]
        rollouts = [
            _rollout([_dot(x, y) for y in pools[n]], [_dot(x, y) for y in wrong], settings)
            if valid
            else (0.0, 0.0, 0.0)
            for x, valid in zip(group, anchor_valid[n], strict=True)
        ]
        made.append(_flattened(rollouts, anchor_valid[n], settings.min_group_std))
    ranking, gap, value = ([[rollout[part] for rollout in group] for group in made] for part in range(3))
    return ranking, gap, value


def _rollout(positives: list[float], negatives: list[float], settings: RewardSettings) -> tuple[float, float, float]:
    near = sum(s > settings.threshold for s in positives) / len(positives) if positives else 0.0
    told = bool(positives and negatives)
    ranking = fewest_positives_on_top(positives, negatives) / len(positives) if told else 0.0
    gap = statistics.fmean(positives) - _negative_mean(negatives, settings) if told else 0.0
    return (
        ranking,
        gap,
        {"product": ranking * gap, "no_gap": ranking, "no_ranking": gap, "threshold": near}[settings.form],
    )


def fewest_positives_on_top(positives: list[float], negatives: list[float]) -> int:
    """|S⁺ ∩ top_G(S⁺ ∪ S⁻)| over every subset of G that is a top one: with ties there are several; the worst counts."""
    union = [(s, True) for s in positives] + [(s, False) for s in negatives]
    worst = len(positives)
    for chosen in combinations(range(len(union)), len(positives)):
        rest = [union[i][0] for i in range(len(union)) if i not in chosen]
        if min(union[i][0] for i in chosen) >= max(rest):
            worst = min(worst, sum(union[i][1] for i in chosen))
    return worst


def _negative_mean(negatives: list[float], settings: RewardSettings) -> float:
    if settings.negatives == "hardest":
        return statistics.fmean(sorted(negatives, reverse=True)[: settings.hardest_k])
    if settings.negatives == "softmax":
        weights = [math.exp(s / settings.softmax_temperature) for s in negatives]
        return sum(w * s for w, s in zip(weights, negatives, strict=True)) / sum(weights)
    return statistics.fmean(negatives)


def _flattened(
    rollouts: list[tuple[float, float, float]], valid: Sequence[bool], min_std: float
) -> list[tuple[float, float, float]]:
    values = [rollout[2] for rollout, there in zip(rollouts, valid, strict=True) if there]
    if (len(values) > 1 and statistics.stdev(values) >= min_std) or not values:
        return rollouts
    mean = statistics.fmean(values)
    return [(*rollout[:2], mean if there else 0.0) for rollout, there in zip(rollouts, valid, strict=True)]


def _dot(x: Rollout, y: Rollout) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def released(similarities: np.ndarray, group: int) -> np.ndarray:
    """[P·G], the reward of each row as the authors' code computes it. similarities: [P·G, P·G], group by group."""
    rewards = np.empty(len(similarities))
    for row, scores in enumerate(similarities):
        start, end = row // group * group, (row // group + 1) * group
        top = np.argsort(-scores)[:group]
        ranking = ((top >= start) & (top < end)).mean()
        others = np.r_[scores[:start], scores[end:]]
        rewards[row] = ranking * (scores[start:end].mean() - others.mean())
    return rewards
