"""AdamW, or Muon for the inner matrices with AdamW for the rest; the rate as a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from schemas.training import Training

_DECAY_FROM, _FLOOR = 0.4, 0.02


def make_optimizers(module: nn.Module, training: Training) -> list[torch.optim.Optimizer]:
    """Optimizers over the parameters that are trained."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if training.optimizer == "adamw":
        return [_adamw([p for _, p in named], training)]
    matrices = [p for name, p in named if _is_inner_matrix(name, p)]
    rest = [p for name, p in named if not _is_inner_matrix(name, p)]
    muon = torch.optim.Muon(matrices, lr=training.learning_rate, weight_decay=0.01)
    return [muon, _adamw(rest, training)]


def rate_factor(training: Training, step: int) -> float:
    """Share of the learning rate at a step, counted from zero.

    cosine: warm-up, then half a cosine to zero. linear: warm-up, level, then straight down over the last part.
    """
    warm = min(1.0, (step + 1) / max(1, training.warmup_steps))
    if training.schedule == "linear":
        left = (1 - step / training.steps) / (1 - _DECAY_FROM)
        return min(warm, max(_FLOOR, left))
    done = max(0, step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    return min(warm, 0.5 * (1 + math.cos(math.pi * done)))


def _adamw(parameters: list[nn.Parameter], training: Training) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        parameters, lr=training.learning_rate, betas=(0.9, 0.98), weight_decay=training.weight_decay
    )


def _is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
