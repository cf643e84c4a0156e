"""A tiny untrained model of each family, mixed rows, and what is compared between two ways of running them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tests.backbone.mrope import original_positions
from tests.student import QUERY, clip, picture, small_student
from umer1_core.backbone.collate import Encoder, Layout, Row, collate
from umer1_core.backbone.family import family_of
from umer1_core.backbone.forward import hidden_states
from umer1_core.backbone.model import Backbone, load_backbone
from umer1_core.backbone.positions import read_embeddings
from umer1_core.template import training_prompt, training_response

KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
PROMPT, RESPONSE = training_prompt(QUERY), training_response("It is red.", "red")


@cache
def family_folder(kind: str, tied: bool = True) -> str:
    """A checkpoint of one family, with the tokenizer and the sizes of the student; tied: head and embeddings."""
    student, folder = small_student(), mkdtemp(prefix=f"umer1-{kind}-")
    config = _config(kind, student.model.config)
    config.tie_word_embeddings = tied
    model: Any = family_of(kind, kind).model_class(config)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=0.05 if "embed_tokens" in name else 1 / math.sqrt(parameter[0].numel()))
    model.save_pretrained(folder)
    _processor(kind, student.processor).save_pretrained(folder)
    return folder


def fresh(kind: str = "qwen2_vl", attention: str | None = None, dropout: float = 0.0) -> Backbone:
    """A backbone of one's own; dropout: of the decoder's attention."""
    backbone = load_backbone(family_folder(kind), *([attention] if attention else []))
    for layer in backbone.model.model.language_model.layers:
        layer.self_attn.attention_dropout = dropout
    return backbone


def mixed_rows(backbone: Backbone, folder: Path) -> list[Row]:
    """A picture, a clip, a page, two pictures (one wide), text alone, a clip and a picture: of different lengths."""
    folder.mkdir(parents=True, exist_ok=True)
    media = [
        [picture(folder, "red")],
        [clip(folder, "green")],
        [picture(folder, "blue", size=(128, 192))],
        [picture(folder, "black", size=(192, 128)), picture(folder, "red", "left")],
        [],
        [clip(folder, "red", True), picture(folder, "green", "right")],
    ]
    texts = [PROMPT, "clip", PROMPT, "two", "some words and more", "both"]
    prompts = [text if text == PROMPT else training_prompt(text) for text in texts]
    encoder = Encoder(backbone, 1024)
    return [encoder.encode(text, items, RESPONSE) for text, items in zip(prompts, media, strict=True)]


def library_states(backbone: Backbone, row: Row) -> Tensor:
    """[length, width] of the library's own forward pass: pixels, token types, grids and positions go in; the tower,
    masks and attention are its own."""
    positions = original_positions(backbone, [*row.prompt, *row.response], row.pixels)
    batch = collate([replace(row, positions=positions)], backbone.ids, backbone.device)
    seen: dict[str, Any] = {"position_ids": batch.positions}
    for kind, values, grid in (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    ):
        patches = [p.patches for p in row.pixels if p.kind == kind]
        if patches:
            seen |= {values: torch.cat(patches), grid: batch.grids(kind)}
    return backbone.model.model(input_ids=batch.ids, mm_token_type_ids=batch.media_types, **seen).last_hidden_state[0]


def embeddings(backbone: Backbone, rows: list[Row], layout: Layout, **options: Any) -> Tensor:
    """[2, rows, width]: `<gen_emb>`, `<disc_emb>`. options: of `hidden_states`."""
    batch = collate(rows, backbone.ids, backbone.device, layout)
    hidden = hidden_states(backbone, batch, **options)
    gen = read_embeddings(hidden, batch.ids, backbone.ids.gen, batch.assistant)
    disc = read_embeddings(hidden, batch.ids, backbone.ids.disc, batch.user)
    assert {*gen.statuses, *disc.statuses} == {"ok"}
    return torch.stack([gen.vectors, disc.vectors])


def separate(backbone: Backbone, rows: list[Row]) -> Tensor:
    """The same of each row alone."""
    return torch.cat([embeddings(backbone, [row], "right") for row in rows], dim=1)


def gradients(backbone: Backbone, vectors: Tensor) -> dict[str, Tensor]:
    """Of a fixed random mixture of the embeddings, by parameter; the model's own are cleared."""
    backbone.model.zero_grad()
    weights = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1))
    (vectors * weights).sum().backward()
    found = {name: p.grad.clone() for name, p in backbone.model.named_parameters() if p.grad is not None}
    backbone.model.zero_grad()
    return found


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of any parameter's gradient, against the size of that gradient."""
    assert one.keys() == other.keys()
    return max(float((one[n] - other[n]).norm() / other[n].norm().clamp(min=1e-3)) for n in one)


def _config(kind: str, student: Qwen2VLConfig) -> Any:
    text = {**student.text_config.to_dict(), "layer_types": None, "num_attention_heads": 3, "num_key_value_heads": 1}
    vision = student.vision_config.to_dict()
    tokens = {
        name: getattr(student, name)
        for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    }
    if kind == "qwen2_vl":
        vision["model_type"], text["model_type"] = "qwen2_vl_vision", "qwen2_vl_text"
        return Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens)
    sizes = {name: vision[name] for name in ("depth", "num_heads", "patch_size", "temporal_patch_size")}
    shared = {**sizes, "spatial_merge_size": 2, "hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 96}
    text.pop("model_type")
    if kind == "qwen2_5_vl":
        windows = {**shared, "window_size": 32, "fullatt_block_indexes": [1]}
        return Qwen2_5_VLConfig(text_config=text, vision_config=windows, tie_word_embeddings=True, **tokens)
    deep = {**shared, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    text["head_dim"] = 32
    text["rope_parameters"] = {**text["rope_parameters"], "mrope_interleaved": True}
    text = {name: value for name, value in text.items() if "sliding" not in name and "window" not in name}
    text.pop("layer_types")
    return Qwen3VLConfig(text_config=text, vision_config=deep, tie_word_embeddings=True, **tokens)


def _processor(kind: str, student: Any) -> Any:
    parts = {
        "image_processor": student.image_processor,
        "video_processor": student.video_processor,
        "tokenizer": student.tokenizer,
        "chat_template": student.chat_template,
    }
    if kind == "qwen2_vl":
        return student
    if kind == "qwen2_5_vl":
        return Qwen2_5_VLProcessor(**parts)
    known = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std")
    same = {name: getattr(student.video_processor, name) for name in known}
    clip_size = {"shortest_edge": 32 * 32, "longest_edge": 8 * 32 * 32}
    return Qwen3VLProcessor(**{**parts, "video_processor": Qwen3VLVideoProcessor(size=clip_size, **same)})
