"""One forward pass of a batch through the decoder, without the vocabulary: states after the final norm.

The final states are `model.model(...).last_hidden_state`; `hidden_states[-1]` is not the same thing in every release.
A packed line comes with its segments (`cu_seq_lens`) and with position ids of four rows, the first of which starts
again at each segment: from them the library's own back-ends build the same block-diagonal attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from umer1_core.backbone.collate import Batch
from umer1_core.backbone.model import Backbone
from umer1_core.backbone.vision import Tower, blank, encoder_outputs, visual_tokens


def hidden_states(
    backbone: Backbone,
    batch: Batch,
    cache: Cache | None = None,
    tower: Tower | None = None,
    keep_vision: bool = False,
) -> Tensor:
    """[lines, length, width].

    tower: what `encode_tower` made of the batch's media; keep_vision: a batch without media adds nothing times the
    visual token of a blank picture, so that it touches the parameters that one with media does.
    """
    extra: dict[str, Any] = {}
    nothing: Tensor | None = None
    with backbone.computing():
        if batch.pixels:
            tokens = visual_tokens(backbone, batch.pixels, tower)
            extra["mm_encoder_outputs"] = encoder_outputs(backbone, batch.pixels, tokens)
        elif keep_vision:
            nothing = visual_tokens(backbone, [blank(backbone)], tower).nothing()
        output = backbone.model.model(
            input_ids=batch.ids,
            past_key_values=cache,
            use_cache=cache is not None,
            **_attended(batch),
            **extra,
        )
    states: Tensor = output.last_hidden_state
    return states if nothing is None else states + nothing.to(states.dtype)


def step_states(backbone: Backbone, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    """States of one further token a row. ids, positions: [batch]; mask: [batch, length so far + 1] → [batch, width]."""
    with backbone.computing():
        output = backbone.model.model(
            input_ids=ids.unsqueeze(1),
            attention_mask=mask,
            position_ids=positions.view(1, -1, 1).expand(3, -1, -1),
            past_key_values=cache,
            use_cache=True,
        )
    return output.last_hidden_state[:, 0]


def next_tokens(backbone: Backbone, states: Tensor) -> Tensor:
    """The most likely next token of each row. states: [batch, width] → [batch]."""
    with backbone.computing(), torch.no_grad():
        return backbone.model.lm_head(states).argmax(-1)


def _attended(batch: Batch) -> dict[str, Any]:
    """Who sees whom: a mask of padded rows, or the segments of a packed line."""
    if batch.bounds is None:
        return {"attention_mask": batch.mask, "position_ids": batch.positions}
    starts, length = batch.bounds[:-1], batch.ids.shape[1]
    places = torch.arange(length, device=batch.ids.device)
    within = places - starts.repeat_interleave(batch.bounds.diff(), output_size=length)
    return {
        "position_ids": torch.cat([within.view(1, 1, -1), batch.positions]),
        "cu_seq_lens_q": batch.bounds,
        "cu_seq_lens_k": batch.bounds,
        "max_length_q": batch.longest,
        "max_length_k": batch.longest,
    }
