"""Visual tokens of a batch: the library's own tower, over all media of the batch in one pass.

Guarantees: a frozen tower may run once for both passes of a step (`encode_tower`), with the same values and the same
gradients of the mergers and the decoder; a batch without media can be made to touch the same parameters as one with
media, which sharded and data-parallel training need (the released code shows a blank picture).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from umer1_core.backbone.model import Backbone
from umer1_core.backbone.pixels import Pixels


@dataclass(frozen=True, slots=True)
class Tower:
    """What a frozen tower made of a batch's media: the inputs of its mergers, [patches, width] each, no gradient."""

    states: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class VisualTokens:
    """merged: [tokens, width], of all media in order; deeper: the same for each deeper layer that takes some."""

    merged: Tensor
    deeper: list[Tensor]

    def nothing(self) -> Tensor:
        """A zero that depends on every parameter behind the tokens."""
        return 0 * sum((tokens.float().sum() for tokens in self.deeper), self.merged.float().sum())


def tower_is_frozen(backbone: Backbone) -> bool:
    """Whether `encode_tower` may be reused: nothing before the mergers is trained."""
    tower = backbone.model.model.visual
    after = {id(p) for merger in backbone.family.mergers(tower) for p in merger.parameters()}
    return not any(p.requires_grad for p in tower.parameters() if id(p) not in after)


@torch.no_grad()
def encode_tower(backbone: Backbone, pixels: Sequence[Pixels], keep_vision: bool = False) -> Tower | None:
    """Run the tower up to its mergers, for `hidden_states(..., tower=…)`. None where there are no media to run on.

    keep_vision: run it on a blank picture then, since every rank must run the same layers.
    """
    shown = list(pixels) or ([blank(backbone)] if keep_vision else [])
    if not shown:
        return None
    tower = backbone.model.model.visual
    with backbone.computing():
        return Tower(backbone.family.before_mergers(tower, *_inputs(tower, shown)))


def visual_tokens(backbone: Backbone, pixels: Sequence[Pixels], tower: Tower | None = None) -> VisualTokens:
    """Visual tokens of at least one medium; tower: what `encode_tower` made of the same media."""
    visual = backbone.model.model.visual
    if tower is not None:
        return VisualTokens(*backbone.family.merge(visual, tower.states))
    return VisualTokens(*backbone.family.encode(visual, *_inputs(visual, pixels)))


def encoder_outputs(
    backbone: Backbone, pixels: Sequence[Pixels], tokens: VisualTokens
) -> dict[str, BaseModelOutputWithDeepstackFeatures]:
    """What `mm_encoder_outputs` of the model takes: tokens of the images and of the clips, each in order."""
    area = backbone.model.model.visual.spatial_merge_size**2
    sizes = [p.grid[0] * p.grid[1] * p.grid[2] // area for p in pixels]
    merged, deeper = tokens.merged.split(sizes), [layer.split(sizes) for layer in tokens.deeper]
    outputs = {}
    for kind in ("image", "video"):
        places = [i for i, p in enumerate(pixels) if p.kind == kind]
        if places:
            outputs[kind] = BaseModelOutputWithDeepstackFeatures(
                pooler_output=[merged[i] for i in places],  # type: ignore[arg-type]
                deepstack_features=[[layer[i] for i in places] for layer in deeper],  # type: ignore[misc]
            )
    return outputs


def blank(backbone: Backbone) -> Pixels:
    """A picture of one visual token, all zero."""
    config = backbone.model.config.vision_config
    side = config.spatial_merge_size
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    return Pixels("image", torch.zeros(side * side, values), (1, side, side))


def _inputs(tower: Any, pixels: Sequence[Pixels]) -> tuple[Tensor, Tensor]:
    patches = torch.cat([p.patches for p in pixels]).to(tower.device, tower.dtype)
    return patches, torch.tensor([p.grid for p in pixels], device=tower.device)
