"""The three terms of the SFT loss, pure functions (UME-R1 section 3.3, equations 1 to 4).

Guarantee: no I/O, no distributed state. Entries that are equal by content are no negatives of each other. Zero vectors
give log B; logits of zero give log V.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

Direction = Literal["both", "q2t"]
TokenReduction = Literal["token_mean", "sample_sum"]

_CHUNK = 1_024


def equal_entries(query_keys: Sequence[str], target_keys: Sequence[str]) -> Tensor:
    """[batch, batch], True where j is no negative of i: the same target, or another target of the same query."""
    same = [
        [
            i != j and (query_keys[i] == query_keys[j] or target_keys[i] == target_keys[j])
            for j in range(len(query_keys))
        ]
        for i in range(len(query_keys))
    ]
    return torch.tensor(same, dtype=torch.bool).view(len(query_keys), len(query_keys))


def info_nce(
    queries: Tensor, targets: Tensor, temperature: float, equal: Tensor, direction: Direction = "both"
) -> Tensor:
    """InfoNCE over in-batch targets: equations 1 and 2 (`q2t`), or the mean of both directions, as released.

    queries, targets: [batch, width], normalised; equal: [batch, batch], entries left out of the denominator.
    """
    scores = (queries.float() @ targets.float().T / temperature).masked_fill(equal, float("-inf"))
    right = torch.arange(len(scores), device=scores.device)
    forward = cross_entropy(scores, right)
    return forward if direction == "q2t" else (forward + cross_entropy(scores.T, right)) / 2


def next_token_sum(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Sum of next-token losses without keeping all logits: recomputed in the backward pass, some rows at a time.

    states: [tokens, width], only those with a label; weight: [vocabulary, width]; labels: [tokens].
    """
    if len(states) <= _CHUNK:
        return _token_sum(states, weight, labels)
    total = states.new_zeros((), dtype=torch.float32)
    for rows, names in zip(states.split(_CHUNK), labels.split(_CHUNK), strict=True):
        total = total + checkpoint(_token_sum, rows, weight, names, use_reentrant=False)
    return total


def token_divisor(reduction: TokenReduction, tokens: int, pairs: int) -> int:
    """What the batch's sum is divided by: its tokens (default), or its pairs (equation 3)."""
    return max(1, tokens if reduction == "token_mean" else pairs)


def _token_sum(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(linear(states, weight).float(), labels, reduction="sum")
