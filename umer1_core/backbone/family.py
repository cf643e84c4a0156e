"""What differs between Qwen2-VL, Qwen2.5-VL and Qwen3-VL; the rest of the package knows no family.

A family says which classes a checkpoint has, which rows the embedding tokens start from, how many pixels and tokens
media take, and what its vision tower gives to the mergers. The forward passes are the library's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLDecoderLayer
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextDecoderLayer
from transformers.video_utils import VideoMetadata
from transformers.vision_utils import get_vision_window_index

from umer1_core.backbone.pixels import Pixels
from umer1_core.errors import Fatal
from umer1_core.template import DISC_EMB, GEN_EMB

_MAX_IMAGE_PIXELS = 2_359_296
# Visual tokens of one frame, of the released training.
_MAX_FRAME_TOKENS, _MIN_FRAME_TOKENS = 32, 4


class Family:
    """Qwen2-VL, and what the later families share with it."""

    model_class: type[PreTrainedModel] = Qwen2VLForConditionalGeneration
    layer_class: type[nn.Module] = Qwen2VLDecoderLayer
    # Rows that the released code copies: `<gen_emb>` from the end, `<disc_emb>` from the start of an object reference.
    copied_from: ClassVar[Mapping[str, str]] = {GEN_EMB: "<|object_ref_end|>", DISC_EMB: "<|object_ref_start|>"}

    def limit_pixels(self, processor: Any) -> None:
        """Cap pictures and frames as the released training does; a checkpoint with smaller limits keeps its own."""
        image, video = processor.image_processor, processor.video_processor
        image.size["longest_edge"] = min(image.size["longest_edge"], _MAX_IMAGE_PIXELS)
        token_pixels = (video.patch_size * video.merge_size) ** 2
        video.size["shortest_edge"] = min(video.size["shortest_edge"], _MIN_FRAME_TOKENS * token_pixels)
        self.limit_frames(video, token_pixels)

    def limit_frames(self, video: Any, token_pixels: int) -> None:
        """video: the video processor; token_pixels: pixels of a frame behind one visual token."""
        video.size["longest_edge"] = min(video.size["longest_edge"], _MAX_FRAME_TOKENS * token_pixels)
        video.cap_pixels_per_frame = bool(video.cap_pixels_per_frame)

    def placeholders(self, pixels: Pixels, processor: Any, token: int) -> list[int]:
        """The ids that stand in the place of one medium's single placeholder, which is `token`."""
        t, h, w = pixels.grid
        return [token] * (t * h * w // processor.image_processor.merge_size**2)

    def mergers(self, tower: Any) -> list[nn.Module]:
        """The parts between the vision tower and the decoder: trained while the tower is frozen."""
        return [tower.merger]

    def before_mergers(self, tower: Any, patches: Tensor, grids: Tensor) -> tuple[Tensor, ...]:
        """What each merger is given, in the order of the patches: [patches, width] each."""
        with _given(self.mergers(tower)) as given:
            tower(patches, grid_thw=grids, return_dict=True)
        return tuple(given)

    def merge(self, tower: Any, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Visual tokens from what `before_mergers` gave: [tokens, width] at the input, and of each deeper layer."""
        merged = [merger(given) for merger, given in zip(self.mergers(tower), states, strict=True)]
        return merged[0], merged[1:]

    def encode(self, tower: Any, patches: Tensor, grids: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The whole tower: what `merge` gives, in one pass."""
        return tower(patches, grid_thw=grids, return_dict=True).pooler_output, []


class Qwen25VL(Family):
    """Qwen2.5-VL: the tower attends in windows and keeps its patches in their order."""

    model_class = Qwen2_5_VLForConditionalGeneration
    layer_class = Qwen2_5_VLDecoderLayer
    copied_from: ClassVar[Mapping[str, str]] = {GEN_EMB: "</tool_call>", DISC_EMB: "<tool_call>"}

    def before_mergers(self, tower: Any, patches: Tensor, grids: Tensor) -> tuple[Tensor, ...]:
        config = tower.config
        windows, _ = get_vision_window_index(grids, config.spatial_merge_size, config.window_size, config.patch_size)
        (given,) = super().before_mergers(tower, patches, grids)
        tokens = given.unflatten(0, (-1, config.spatial_merge_size**2))
        return (tokens[windows.argsort()].flatten(0, 1),)


class Qwen3VL(Family):
    """Qwen3-VL: features of earlier layers go to the decoder too; times are written between a clip's frames."""

    model_class = Qwen3VLForConditionalGeneration
    layer_class = Qwen3VLTextDecoderLayer

    def limit_frames(self, video: Any, token_pixels: int) -> None:
        # Here `size` is of a whole clip; the limit on a frame is counted in tokens.
        video.max_video_tokens = min(video.max_video_tokens, _MAX_FRAME_TOKENS)
        video.cap_pixels_per_frame = True

    def placeholders(self, pixels: Pixels, processor: Any, token: int) -> list[int]:
        if pixels.kind == "image":
            return super().placeholders(pixels, processor, token)
        # Frames come without their times: they are taken to be sampled at the processor's own rate.
        rate, frames = processor.video_processor.fps, pixels.frames
        times = VideoMetadata(frames, fps=rate, frames_indices=list(range(frames)))
        clip = {"video_grid_thw": torch.tensor([pixels.grid]), "video_metadata": [times]}
        return processor.tokenizer(processor.replace_video_token(clip, 0), add_special_tokens=False)["input_ids"]

    def mergers(self, tower: Any) -> list[nn.Module]:
        return [tower.merger, *tower.deepstack_merger_list]

    def encode(self, tower: Any, patches: Tensor, grids: Tensor) -> tuple[Tensor, list[Tensor]]:
        output = tower(patches, grid_thw=grids, return_dict=True)
        return output.pooler_output, output.deepstack_features


_FAMILIES = {"qwen2_vl": Family(), "qwen2_5_vl": Qwen25VL(), "qwen3_vl": Qwen3VL()}


def family_of(model_type: str, name: str) -> Family:
    """The family of a checkpoint by its configuration's `model_type`. Raises Fatal for any other."""
    if model_type not in _FAMILIES:
        known = "Set `training.model` to a Qwen2-VL, Qwen2.5-VL or Qwen3-VL checkpoint, or to `miniature`."
        raise Fatal(f"{name} is a {model_type} model.", known)
    return _FAMILIES[model_type]


@contextlib.contextmanager
def _given(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """The first argument that each module is called with, in the order of the modules."""
    given: list[Tensor] = [torch.empty(0)] * len(modules)

    def keeper(place: int) -> Any:
        def keep(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            given[place] = arguments[0]

        return keep

    handles = [module.register_forward_pre_hook(keeper(place)) for place, module in enumerate(modules)]
    try:
        yield given
    finally:
        for handle in handles:
            handle.remove()
