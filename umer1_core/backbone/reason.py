"""Reason, then embed: one greedy run gives the text and both embeddings (UME-R1 section 3.2, figure 2a).

Guarantees: `disc` is read from the prefill, `gen` from the state at the last `<gen_emb>` that was generated, without
a second forward pass (decode.py). Nobody keeps all layers' states of all steps, as the released evaluation does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from umer1_core.backbone.collate import Encoder, Row, collate
from umer1_core.backbone.decode import decode, prefill
from umer1_core.backbone.forward import hidden_states, next_tokens
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
    texts = [list[int]() for _ in rows]
    if mode == "both":
        made = prefill(backbone, batch)
        hidden = made.hidden
        gen, texts = decode(backbone, made.repeat(1), lambda states: next_tokens(backbone, states), max_new_tokens)
    else:
        hidden = hidden_states(backbone, batch)
        nothing: list[Status] = ["no_token" for _ in rows]
        gen = Reading(hidden.new_zeros(len(rows), hidden.shape[-1]), tuple(nothing))
    disc = read_embeddings(hidden, batch.ids, backbone.ids.disc, batch.user)
    end = backbone.ids.end_of_turn
    written = [text[:-1] if text[-1:] == [end] else text for text in texts]
    spell = backbone.processor.tokenizer.decode
    return [
        SideEmbedding(
            spell(text), gen.vectors[i].cpu(), disc.vectors[i].cpu(), gen.statuses[i], disc.statuses[i], len(text)
        )
        for i, text in enumerate(written)
    ]
