"""One forward pass of a batch through the decoder, without the vocabulary: states after the final norm.

The final states are `model.model(...).last_hidden_state`; `hidden_states[-1]` is not the same thing in every release.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from umer1_core.backbone.collate import Batch
from umer1_core.backbone.model import Backbone
from umer1_core.backbone.vision import visual_features


def hidden_states(backbone: Backbone, batch: Batch, cache: Cache | None = None) -> Tensor:
    """[batch, length, width]."""
    positions, _ = rope_positions(backbone, batch)
    with backbone.computing():
        output = backbone.model.model(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=positions,
            mm_encoder_outputs=visual_features(backbone.model, batch.pixels),
            past_key_values=cache,
            use_cache=cache is not None,
        )
    return output.last_hidden_state


def rope_positions(backbone: Backbone, batch: Batch) -> tuple[Tensor, Tensor]:
    """M-RoPE positions [3, batch, length], and by how much the next position differs from a row's length [batch]."""
    if not batch.pixels:
        positions = (batch.mask.long().cumsum(1) - 1).clamp(min=0)
        return positions.expand(3, -1, -1), torch.zeros(len(batch.ids), dtype=torch.long, device=batch.ids.device)
    model: Any = backbone.model.model
    # Loops over rows and reads single numbers: on the CPU, whatever the device.
    positions, deltas = model.get_rope_index(
        batch.ids.cpu(),
        mm_token_type_ids=batch.media_types.cpu(),
        image_grid_thw=batch.grids("image"),
        video_grid_thw=batch.grids("video"),
        attention_mask=batch.mask.cpu(),
    )
    return positions.to(batch.ids.device), deltas.view(-1).to(batch.ids.device)


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
