"""A contrastive anchor on the rollouts' own embeddings: the reward moves texts, this keeps the vectors apart.

Guarantee: the gradient is that of InfoNCE over the whole block, on any number of processes: the loss is made of leaves,
and the pass with gradient multiplies each embedding by its own (as in the two-pass step of stage 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_core.grpo.rewards import RolloutBlock
from umer1_core.training.losses import contrastive


def anchor_gradient(block: RolloutBlock, temperature: float) -> tuple[float, Tensor]:
    """Mean over the G rounds of symmetric InfoNCE between the pairs' g-th rollouts, and its gradient [2, N, G, width].

    A pair counts in a round where both its rollouts are valid.
    """
    leaf = block.vectors.detach().clone().requires_grad_()
    count = leaf.shape[1]
    equal = block.not_negative if block.not_negative is not None else torch.zeros(count, count, dtype=torch.bool)
    equal = equal.to(leaf.device)
    loss = leaf.new_zeros(())
    rounds = block.vectors.shape[2]
    for place in range(rounds):
        both = block.valid[:, :, place].all(0)
        if int(both.sum()) > 1:
            queries, targets = leaf[:, both, place]
            loss = loss + contrastive(queries, targets, temperature, equal[both][:, both]) / rounds
    if loss.requires_grad:
        loss.backward()
    return loss.item(), torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
