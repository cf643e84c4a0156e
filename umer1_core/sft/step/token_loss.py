"""The next-token loss of supervised positions without their full logits (UME-R1 equation 3).

Guarantees: value and gradients are those of a weighted cross entropy over all rows, whatever the chunk; only one chunk
of logits is in memory. Loss and gradients are made together in the forward pass, so backward computes nothing again and
does not read the lm_head: a sharded one need be whole in the forward pass only.

torch's `linear_cross_entropy` weighs classes, not rows, and is slow on a CPU; Liger's kernel needs a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Fewer rows make slow products: 64 take 1.14 times the time of 128 at vocabulary 151,936 and width 256 on a CPU.
_LEAST_ROWS = 128
_SMALL_LOGITS = 2**22


def weighted_token_loss(
    states: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, chunk: int | None = None
) -> Tensor:
    """Sum of weights · losses, a scalar in fp32.

    states: [tokens, width], of supervised positions only, each the one that predicts its label;
    weight: [vocabulary, width], of the lm_head; labels: [tokens], ids within the vocabulary; weights: [tokens],
    constants; chunk: rows whose logits are made at a time, chosen by size if not given.

    Products are in autocast's type, or without autocast in that of the states; softmax and sums are in fp32. Gradients
    are in the types of `states` and `weight`, summed in fp32, and made only where they are needed.

    Backward runs once, and its gradients have no graph: a second pass, or differentiating twice, raises RuntimeError.
    So does a label that is no id (on a GPU, as its assertion).
    """
    needed = torch.is_grad_enabled()
    rows = chunk or _chunk_rows(*weight.shape)
    total: Tensor = _WeightedTokenLoss.apply(
        states, weight, labels, weights, rows, needed and states.requires_grad, needed and weight.requires_grad
    )
    return total


def _chunk_rows(vocabulary: int, width: int) -> int:
    """So many that their logits take a quarter of the weight's gradient, which is there anyway; more if that is few."""
    return max(width // 4, _LEAST_ROWS, _SMALL_LOGITS // vocabulary)


class _WeightedTokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        labels: Tensor,
        weights: Tensor,
        chunk: int,
        states_needed: bool,
        weight_needed: bool,
    ) -> Tensor:
        kind = _product_type(states)
        head = weight.to(kind)
        d_states = torch.empty_like(states) if states_needed else None
        d_weight = torch.zeros_like(weight, dtype=_wide(weight.dtype)) if weight_needed else None
        total = states.new_zeros((), dtype=_wide(kind))
        with torch.autocast(states.device.type, enabled=False):
            for first in range(0, len(states), chunk):
                part = slice(first, first + chunk)
                rows, slopes_into = states[part].to(kind), None if d_states is None else d_states[part]
                total += _chunk_sum(rows, head, labels[part], weights[part], slopes_into, d_weight)
        ctx.save_for_backward(d_states, None if d_weight is None else d_weight.to(weight.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        # In place, as the weight's gradient is large; torch refuses a second backward because the version changed.
        d_states, d_weight = (saved if saved is None else saved.mul_(slope) for saved in ctx.saved_tensors)
        return d_states, d_weight, None, None, None, None, None


def _chunk_sum(
    rows: Tensor, head: Tensor, labels: Tensor, weights: Tensor, d_rows: Tensor | None, d_weight: Tensor | None
) -> Tensor:
    """The weighted sum of some rows; writes their gradient into `d_rows` and adds theirs to `d_weight`."""
    logits = rows @ head.T
    logits = logits.to(_wide(logits.dtype))
    names, factors = labels.unsqueeze(1), weights.to(logits.dtype).unsqueeze(1)
    own = logits.gather(1, names)
    top = logits.amax(1, keepdim=True)
    mass = logits.sub_(top).exp_().sum(1, keepdim=True)
    losses = mass.log() + top - own
    if d_rows is not None or d_weight is not None:
        # d loss / d logits = softmax − one-hot, in the place of the logits.
        slopes = logits.mul_(factors / mass).scatter_add_(1, names, -factors).to(rows.dtype)
        if d_rows is not None:
            d_rows.copy_(slopes @ head)
        if d_weight is not None:
            _add_product(d_weight, slopes.T, rows)
    return (losses * factors).sum()


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _product_type(states: Tensor) -> torch.dtype:
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
