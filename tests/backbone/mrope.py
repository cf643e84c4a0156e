"""M-RoPE positions, token by token, by the rule that the checkpoints were trained with (Qwen2-VL section 2.1).

It knows neither the library's `get_rope_index` nor the encoder: tests hold both against it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from umer1_core.backbone.model import Backbone
from umer1_core.backbone.pixels import Pixels

Place = tuple[int, int, int]


def original_positions(backbone: Backbone, tokens: Sequence[int], pixels: Sequence[Pixels]) -> Tensor:
    """[3, length]: a text token, or a medium's whole grid of time, height and width, starts at the greatest position so
    far + 1. tokens: media expanded."""
    grids = _grids(backbone, pixels)
    places: list[Place] = []
    start = 0
    while len(places) < len(tokens):
        is_medium = tokens[len(places)] in (backbone.ids.image, backbone.ids.video)
        places += [(start + t, start + h, start + w) for t, h, w in (next(grids) if is_medium else [(0, 0, 0)])]
        start = max(max(place) for place in places) + 1
    assert next(grids, None) is None and len(places) == len(tokens)
    return torch.tensor(places).T


def _grids(backbone: Backbone, pixels: Sequence[Pixels]) -> Iterator[list[Place]]:
    """The cells of each grid in order, counted from nought."""
    config = backbone.model.config
    merge = config.vision_config.spatial_merge_size
    for item in pixels:
        frames, rows, columns = item.grid[0], item.grid[1] // merge, item.grid[2] // merge
        # Qwen2.5-VL counts a clip in fractions of a second; two frames at 2 a second are one step of time.
        pace = (
            config.vision_config.tokens_per_second if (config.model_type, item.kind) == ("qwen2_5_vl", "video") else 1
        )
        # Qwen3-VL writes a clip's times as text, each before a grid of one step.
        alone = config.model_type == "qwen3_vl"
        for steps in [1] * frames if alone else [frames]:
            yield [(pace * t, h, w) for t in range(steps) for h in range(rows) for w in range(columns)]
