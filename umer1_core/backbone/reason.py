"""Reason, then embed: one greedy run gives the text and both embeddings (UME-R1 section 3.2, figure 2a).

Guarantees: `disc` is read from the prefill, `gen` from the state at the last `<gen_emb>` that was generated, without
a second forward pass; a step's state equals that of one forward pass over the whole sequence; finished rows leave the
batch. Nobody keeps all layers' states of all steps, as the released evaluation does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from umer1_core.backbone.collate import Encoder, Row, collate
from umer1_core.backbone.forward import hidden_states, next_tokens, step_states
from umer1_core.backbone.model import Backbone
from umer1_core.backbone.positions import Reading, Status, read_embeddings
from umer1_core.errors import BadInput
from umer1_core.pairs import Side
from umer1_core.template import training_prompt

Mode = Literal["both", "disc"]
SideStatus = Status | Literal["bad_input"]


@dataclass(frozen=True, slots=True)
class SideEmbedding:
    """text: what the model wrote; vectors: [width] fp32, zero where the status is not ok; steps: tokens generated."""

    text: str
    gen: Tensor
    disc: Tensor
    gen_status: SideStatus
    disc_status: SideStatus
    steps: int


@torch.inference_mode()
def embed_sides(
    backbone: Backbone, encoder: Encoder, sides: Sequence[Side], mode: Mode = "both", max_new_tokens: int = 8_192
) -> list[SideEmbedding]:
    """Embed a batch of sides. `disc` alone needs no generation; a side that cannot be read is `bad_input`."""
    backbone.model.eval()
    rows: dict[int, Row] = {}
    for index, side in enumerate(sides):
        try:
            rows[index] = encoder.encode(training_prompt(side.text), side.media)
        except BadInput:
            continue
    width = backbone.model.config.text_config.hidden_size
    nothing = SideEmbedding("", torch.zeros(width), torch.zeros(width), "bad_input", "bad_input", 0)
    if not rows:
        return [nothing for _ in sides]
    made = _embed_rows(backbone, list(rows.values()), mode, max_new_tokens)
    of_row = dict(zip(rows, made, strict=True))
    return [of_row.get(index, nothing) for index in range(len(sides))]


def _embed_rows(backbone: Backbone, rows: list[Row], mode: Mode, max_new_tokens: int) -> list[SideEmbedding]:
    batch = collate(rows, backbone.ids, backbone.device, "left")
    cache = DynamicCache(config=backbone.model.config.text_config) if mode == "both" else None
    hidden = hidden_states(backbone, batch, cache)
    disc = read_embeddings(hidden, batch.ids, backbone.ids.disc, batch.user)
    none: list[Status] = ["no_token" for _ in rows]
    gen, texts = Reading(torch.zeros_like(disc.vectors), tuple(none)), [list[int]() for _ in rows]
    if cache is not None:
        run = _Run(backbone, batch.mask, batch.positions.amax((0, 2)) + 1, cache)
        gen, texts = run.decode(hidden[:, -1], max_new_tokens)
    decode = backbone.processor.tokenizer.decode
    return [
        SideEmbedding(
            decode(text), gen.vectors[i].cpu(), disc.vectors[i].cpu(), gen.statuses[i], disc.statuses[i], len(text)
        )
        for i, text in enumerate(texts)
    ]


class _Run:
    """Greedy decoding of the rows that are still open; `open` names them by their place in the batch."""

    def __init__(self, backbone: Backbone, mask: Tensor, positions: Tensor, cache: DynamicCache) -> None:
        self.backbone, self.mask, self.positions, self.cache = backbone, mask, positions, cache
        self.open = torch.arange(len(mask), device=mask.device)

    def decode(self, states: Tensor, max_new_tokens: int) -> tuple[Reading, list[list[int]]]:
        """states: [batch, width], of the prompts' last tokens. Returns the readings and the generated ids."""
        ids = self.backbone.ids
        vectors = torch.zeros(len(states), states.shape[1], device=states.device)
        found = [False] * len(states)
        texts: list[list[int]] = [[] for _ in states]
        for _ in range(max_new_tokens):
            tokens = next_tokens(self.backbone, states)
            self._leave(tokens != ids.end_of_turn)
            tokens = tokens[tokens != ids.end_of_turn]
            if len(tokens) == 0:
                break
            states = self._step(tokens)
            places = torch.arange(len(tokens), device=tokens.device)
            spans = torch.stack([places, places + 1], dim=1)
            step = read_embeddings(states.unsqueeze(1), tokens.unsqueeze(1), ids.gen, spans)
            for place, row in enumerate(self.open.tolist()):
                texts[row].append(int(tokens[place]))
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
