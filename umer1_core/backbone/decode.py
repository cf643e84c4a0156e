"""Token-by-token decoding of a batch over one cache; the embedding is read on the way.

Guarantees: a step's state equals that of one forward pass over the whole sequence; finished rows leave the batch; the
state at the last `<gen_emb>` that a row wrote is its embedding, without a second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from umer1_core.backbone.collate import Batch
from umer1_core.backbone.forward import hidden_states, step_states
from umer1_core.backbone.model import Backbone
from umer1_core.backbone.positions import Reading, Status, read_embeddings

Choose = Callable[[Tensor], Tensor]
"""States [rows, width] → the next token of each row [rows]."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """A batch of prompts that ran through the model. hidden: [rows, length, width]; cache: of these rows."""

    batch: Batch
    hidden: Tensor
    cache: DynamicCache

    def repeat(self, times: int) -> Run:
        """A run with `times` copies of each prompt, one behind the other; the prompts are not computed again."""
        self.cache.batch_repeat_interleave(times)
        positions = self.batch.positions.amax((0, 2)) + 1
        copies = [tensor.repeat_interleave(times, 0) for tensor in (self.hidden[:, -1], self.batch.mask, positions)]
        return Run(copies[0], copies[1], copies[2], self.cache)


@dataclass(frozen=True, slots=True)
class Run:
    """Rows about to write. states: [rows, width], of the prompts' last tokens; mask: [rows, length]; positions: [rows],
    of the next tokens."""

    states: Tensor
    mask: Tensor
    positions: Tensor
    cache: DynamicCache


def prefill(backbone: Backbone, batch: Batch) -> Prefill:
    """Run prompts, padded on the left, and keep their cache."""
    cache = DynamicCache(config=backbone.model.config.text_config)
    return Prefill(batch, hidden_states(backbone, batch, cache), cache)


def decode(backbone: Backbone, run: Run, choose: Choose, max_new_tokens: int) -> tuple[Reading, list[list[int]]]:
    """The readings of `<gen_emb>`, and the ids that each row wrote: with the end of the turn where it came in time."""
    return _Decoder(backbone, run).decode(run.states, choose, max_new_tokens)


class _Decoder:
    """`open` names the rows that still write by their place in the batch."""

    def __init__(self, backbone: Backbone, run: Run) -> None:
        self.backbone, self.mask, self.positions, self.cache = backbone, run.mask, run.positions, run.cache
        self.open = torch.arange(len(run.mask), device=run.mask.device)

    def decode(self, states: Tensor, choose: Choose, max_new_tokens: int) -> tuple[Reading, list[list[int]]]:
        ids = self.backbone.ids
        vectors = torch.zeros(len(states), states.shape[1], device=states.device)
        found = [False] * len(states)
        texts: list[list[int]] = [[] for _ in states]
        for _ in range(max_new_tokens):
            tokens = choose(states)
            for row, token in zip(self.open.tolist(), tokens.tolist(), strict=True):
                texts[row].append(token)
            stays = tokens != ids.end_of_turn
            self._leave(stays)
            tokens = tokens[stays]
            if len(tokens) == 0:
                break
            states = self._step(tokens)
            places = torch.arange(len(tokens), device=tokens.device)
            spans = torch.stack([places, places + 1], dim=1)
            step = read_embeddings(states.unsqueeze(1), tokens.unsqueeze(1), ids.gen, spans)
            for place, row in enumerate(self.open.tolist()):
                if step.statuses[place] == "ok":
                    vectors[row], found[row] = step.vectors[place], True
        cut = set(self.open.tolist())
        statuses: list[Status] = ["ok" if f else "truncated" if i in cut else "no_token" for i, f in enumerate(found)]
        return Reading(vectors, tuple(statuses)), texts

    def _step(self, tokens: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        states = step_states(self.backbone, tokens, self.mask, self.positions, self.cache)
        self.positions = self.positions + 1
        return states

    def _leave(self, stays: Tensor) -> None:
        """Drop the rows that ended."""
        if bool(stays.all()):
            return
        self.mask, self.positions, self.open = self.mask[stays], self.positions[stays], self.open[stays]
        if len(self.open):
            self.cache.batch_select_indices(stays.nonzero()[:, 0])
