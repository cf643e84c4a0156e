"""Visual features of a batch with attention over pictures of one size together.

Guarantee: the mathematics of `Qwen2VisionTransformerPretrainedModel.forward` (a test holds them equal): the patch
embedding is the same linear map without the convolution, and pictures of one grid attend in one batched call, where
transformers runs one call a picture. A clip of t frame groups attends like t pictures, as in Qwen2-VL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import Qwen2VLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

from umer1_core.backbone.pixels import Pixels


def visual_features(
    model: Qwen2VLForConditionalGeneration, pixels: Sequence[Pixels]
) -> dict[str, BaseModelOutputWithPooling]:
    """What `mm_encoder_outputs` of the model takes: features of the images and of the clips, each in order."""
    features: dict[int, Tensor] = {}
    for grid in sorted({p.grid[1:] for p in pixels}):
        members = [i for i, p in enumerate(pixels) if p.grid[1:] == grid]
        stacked = torch.cat([pixels[i].patches.view(pixels[i].grid[0], grid[0] * grid[1], -1) for i in members])
        encoded = encode_pictures(model, grid, stacked)
        parts = encoded.split([pixels[i].grid[0] for i in members])
        features |= {i: part.flatten(0, 1) for i, part in zip(members, parts, strict=True)}
    outputs: dict[str, BaseModelOutputWithPooling] = {}
    for kind in ("image", "video"):
        chosen = [features[i] for i, p in enumerate(pixels) if p.kind == kind]
        if chosen:
            outputs[kind] = BaseModelOutputWithPooling(pooler_output=chosen)  # type: ignore[arg-type]
    return outputs


def encode_pictures(model: Qwen2VLForConditionalGeneration, grid: tuple[int, int], patches: Tensor) -> Tensor:
    """Visual tokens of pictures of one grid: [pictures, rows * columns, values] → [pictures, tokens, width]."""
    tower: Any = model.model.visual
    count, length, _ = patches.shape
    weight = tower.patch_embed.proj.weight.flatten(1)
    hidden = linear(patches.to(weight.device, weight.dtype), weight)
    cos, sin = tower.rotary_pos_emb(hidden, _coordinates(grid, tower.spatial_merge_size).to(weight.device))
    for block in tower.blocks:
        hidden = hidden + _attend(block.attn, block.norm1(hidden), cos, sin)
        hidden = hidden + block.mlp(block.norm2(hidden))
    return tower.merger(hidden.flatten(0, 1)).view(count, length // tower.spatial_merge_size**2, -1)


def _attend(attention: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    count, length, width = hidden.shape
    query, key, value = attention.qkv(hidden).view(count, length, 3, attention.num_heads, -1).unbind(2)
    query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
    mixed = scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return attention.proj(mixed.transpose(1, 2).reshape(count, length, width))


def _coordinates(grid: tuple[int, int], merge: int) -> Tensor:
    """Row and column of each patch in the order of merged blocks: [patches, 2]."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    both = torch.stack([rows, columns], dim=-1).view(grid[0] // merge, merge, grid[1] // merge, merge, 2)
    return both.transpose(1, 2).reshape(-1, 2)
