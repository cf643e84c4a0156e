"""Rollouts by the policy itself, in this process: each prompt and its media once, then G rows over copies of its cache.

Guarantees: on-policy to the last bit, since the very weights in training sample; the embedding comes with the rollout,
without a further pass; banned ids are never sampled; equal seeds and weights give equal rollouts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from umer1_core.backbone.collate import collate
from umer1_core.backbone.decode import decode, prefill
from umer1_core.backbone.model import Backbone
from umer1_core.grpo.rollouts.face import Completion, Prompt, Sampling, SaveWeights


class WithTransformers:
    """rows: prompts times rollouts that are decoded at a time."""

    reads_vectors = True

    def __init__(self, backbone: Backbone, sampling: Sampling, rows: int = 256) -> None:
        self._backbone, self._sampling, self._rows = backbone, sampling, rows

    def load(self, step: int, save: SaveWeights) -> None:
        """The policy samples itself."""

    @torch.no_grad()
    def sample(self, prompts: Sequence[Prompt], group: int, seed: int) -> list[list[Completion]]:
        """See `Rollouts`. Prompts of like length go together."""
        model = self._backbone.model
        was_training = model.training
        model.eval()
        random = torch.Generator(self._backbone.device).manual_seed(seed)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].row))
        size = max(1, self._rows // group)
        found: list[list[Completion]] = [[] for _ in prompts]
        for first in range(0, len(order), size):
            places = order[first : first + size]
            for place, completions in zip(
                places, self._batch([prompts[i] for i in places], group, random), strict=True
            ):
                found[place] = completions
        model.train(was_training)
        return found

    def close(self) -> None:
        """Nothing was opened."""

    def _batch(self, prompts: Sequence[Prompt], group: int, random: torch.Generator) -> list[list[Completion]]:
        backbone = self._backbone
        batch = collate([prompt.row for prompt in prompts], backbone.ids, backbone.device, "left")
        run = prefill(backbone, batch).repeat(group)
        reading, written = decode(
            backbone, run, lambda states: self._choose(states, random), self._sampling.max_new_tokens
        )
        made = [
            Completion(tuple(ids), vector=vector.cpu() if status == "ok" else None)
            for ids, vector, status in zip(written, reading.vectors, reading.statuses, strict=True)
        ]
        return [made[first : first + group] for first in range(0, len(made), group)]

    def _choose(self, states: Tensor, random: torch.Generator) -> Tensor:
        with self._backbone.computing():
            logits = self._backbone.model.lm_head(states)
        logits = logits.float() / self._sampling.temperature
        logits[:, list(self._sampling.banned)] = -torch.inf
        return torch.multinomial(logits.softmax(-1), 1, generator=random)[:, 0]
