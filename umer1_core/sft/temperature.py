"""The temperature of both contrastive terms, fixed or learned.

It is trained beside the model: every process computes the whole contrastive loss, so every process has the same
gradient of it and takes the same step.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

# As CLIP does: a logit scale above 100 makes training unstable.
_COLDEST = 0.01


class Temperature:
    """Holds the logarithm, which keeps it above zero."""

    def __init__(self, start: float, learned: bool, learning_rate: float, device: torch.device) -> None:
        self._log = torch.tensor(math.log(start), device=device, requires_grad=learned)
        self._optimizer = torch.optim.AdamW([self._log], lr=learning_rate, weight_decay=0.0) if learned else None
        self._rate = learning_rate

    def tensor(self) -> Tensor:
        """A scalar; where it is learned, with its graph."""
        return self._log.exp()

    def step(self, factor: float) -> None:
        """Follow the gradient at this share of the learning rate."""
        if self._optimizer is None:
            return
        for group in self._optimizer.param_groups:
            group["lr"] = factor * self._rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        with torch.no_grad():
            self._log.clamp_(min=math.log(_COLDEST))

    def skip(self) -> None:
        """Drop the gradient of a step that is given up."""
        self._log.grad = None

    def state(self) -> dict[str, Any]:
        own = {} if self._optimizer is None else self._optimizer.state_dict()
        return {"log": self._log.detach(), "optimizer": own}

    def load(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self._log.copy_(state["log"])
        if self._optimizer is not None:
            self._optimizer.load_state_dict(state["optimizer"])
