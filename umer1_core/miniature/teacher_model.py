"""The teacher's architecture: GLM-4.1V, half a million parameters, and a batched forward pass for training.

Guarantee: the forward pass is the mathematics of `Glm4vForConditionalGeneration` (a test holds them equal); only the
patch embedding is a linear map, attention is batched over equal grids, and the position interpolation is cached.
`attention_bias` must stand in the text config: transformers always has these biases, vLLM asks the config.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, linear, scaled_dot_product_attention
from transformers import Glm4vConfig, Glm4vForConditionalGeneration
from transformers.models.glm4v.modeling_glm4v import apply_rotary_pos_emb_vision

PATCH, MERGE, TEMPORAL = 8, 2, 2
_GRID = 4
_TEXT_WIDTH, _VISION_WIDTH, _HEAD = 96, 96, 32


def teacher_config(vocabulary: dict[str, int]) -> Glm4vConfig:
    """The miniature's configuration over a vocabulary that holds GLM's media tokens."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [2, 3, 3]}
    text = {
        "vocab_size": len(vocabulary),
        "hidden_size": _TEXT_WIDTH,
        "intermediate_size": 2 * _TEXT_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": _TEXT_WIDTH // _HEAD,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "attention_bias": True,
        "rope_parameters": rope,
        "tie_word_embeddings": True,
        "pad_token_id": vocabulary["<|endoftext|>"],
        "eos_token_id": [vocabulary["<|endoftext|>"], vocabulary["<|user|>"]],
    }
    vision = {
        "depth": 2,
        "hidden_size": _VISION_WIDTH,
        "num_heads": _VISION_WIDTH // _HEAD,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": TEMPORAL,
        "image_size": _GRID * PATCH,
        "out_hidden_size": _TEXT_WIDTH,
        "intermediate_size": 2 * _TEXT_WIDTH,
    }
    return Glm4vConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=vocabulary["<|image|>"],
        video_token_id=vocabulary["<|video|>"],
        image_start_token_id=vocabulary["<|begin_of_image|>"],
        image_end_token_id=vocabulary["<|end_of_image|>"],
        video_start_token_id=vocabulary["<|begin_of_video|>"],
        video_end_token_id=vocabulary["<|end_of_video|>"],
    )


def new_teacher(config: Glm4vConfig) -> Glm4vForConditionalGeneration:
    """A fresh model: weights by fan-in, the norms behind attention and MLP at 0.4."""
    model = Glm4vForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if "embed_tokens" in name or "position_embedding" in name:
            nn.init.normal_(parameter, std=0.05)
        elif parameter.ndim >= 2:
            nn.init.normal_(parameter, std=1 / math.sqrt(parameter[0].numel()))
        elif name.endswith(("post_self_attn_layernorm.weight", "post_mlp_layernorm.weight")):
            nn.init.constant_(parameter, 0.4)
    return model.float()


def reply_logits(
    model: Glm4vForConditionalGeneration,
    tokens: Tensor,
    positions: Tensor,
    patches: dict[tuple[int, int], Tensor],
    order: Tensor,
    wanted: Tensor,
) -> Tensor:
    """Logits at the wanted places.

    tokens: [batch, length], padded on the right; positions: [3, batch, length]; wanted: [batch, length], bool.
    patches: by grid (rows, columns), [pictures, rows * columns, pixels]; order: which visual token, counted over the
    grids as listed, stands at each image placeholder of the batch.
    """
    embeds = model.model.language_model.embed_tokens(tokens)
    if patches:
        visual = torch.cat([encode_pictures(model, grid, pixels) for grid, pixels in patches.items()])
        places = tokens == model.config.image_token_id
        embeds = embeds.masked_scatter(places.unsqueeze(-1), visual[order])
    hidden = model.model.language_model(inputs_embeds=embeds, position_ids=positions, use_cache=False)
    return model.lm_head(hidden.last_hidden_state[wanted])


def encode_pictures(model: Glm4vForConditionalGeneration, grid: tuple[int, int], pixels: Tensor) -> Tensor:
    """Visual tokens of pictures of one grid, flattened: [pictures * rows * columns / 4, width]."""
    tower = model.model.visual
    count, length, _ = pixels.shape
    projection = tower.patch_embed.proj
    hidden = linear(pixels, projection.weight.flatten(1), projection.bias)
    coordinates = _coordinates(grid)
    cos, sin = tower.rotary_pos_emb(hidden, coordinates)
    hidden = tower.post_conv_layernorm(hidden) + _interpolation(grid) @ tower.embeddings.position_embedding.weight
    for block in tower.blocks:
        hidden = hidden + _attend(block.attn, block.norm1(hidden), cos, sin)
        hidden = hidden + block.mlp(block.norm2(hidden))
    hidden = tower.post_layernorm(hidden).view(count * length // MERGE**2, MERGE * MERGE, -1)
    down = tower.downsample
    merged = linear(hidden.transpose(1, 2).flatten(1), down.weight.flatten(1), down.bias)
    return tower.merger(merged)


def _attend(attention: nn.Module, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    count, length, width = hidden.shape
    heads = width // _HEAD
    query, key, value = attention.qkv(hidden).view(count, length, 3, heads, _HEAD).unbind(2)  # type: ignore[operator]
    query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
    mixed = scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return attention.proj(mixed.transpose(1, 2).reshape(count, length, width))  # type: ignore[operator]


@lru_cache(maxsize=8)
def _coordinates(grid: tuple[int, int]) -> Tensor:
    """Row and column of each patch, in the order of the merged two by two blocks: [patches, 2]."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    both = torch.stack([rows, columns], dim=-1).view(grid[0] // MERGE, MERGE, grid[1] // MERGE, MERGE, 2)
    return both.transpose(1, 2).reshape(-1, 2)


@lru_cache(maxsize=8)
def _interpolation(grid: tuple[int, int]) -> Tensor:
    """How much of each learned position stands in each patch's position: [patches, learned]."""
    learned = torch.eye(_GRID * _GRID).view(1, _GRID * _GRID, _GRID, _GRID)
    places = (_coordinates(grid).float() + 0.5) / torch.tensor(grid) * 2 - 1
    samples = places.flip(-1).view(1, -1, 1, 2)
    mixed = grid_sample(learned, samples, mode="bicubic", align_corners=False, padding_mode="border")
    return mixed[0, :, :, 0].T.contiguous()
