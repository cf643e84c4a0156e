"""Media as the model takes them: opened by `umer1_core.media`, turned into patches once, kept while there is room.

The student sees what the annotator saw: both get the picture as its notes have it rendered. One over the limit comes at
a size that the processor's own resize leaves as it is, so that nothing is resized twice.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umer1_core.errors import BadInput
from umer1_core.media import read_frames, read_image, rendered
from umer1_core.pairs import Media, MediaKind

_CACHE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Pixels:
    """patches: [t * h * w, channels * temporal * patch * patch]; grid: (t, h, w) in patches; frames: of a clip."""

    kind: MediaKind
    patches: Tensor
    grid: tuple[int, int, int]
    frames: int = 1

    @property
    def bytes(self) -> int:
        return self.patches.numel() * self.patches.element_size()


class PixelReader:
    """Reads media through a processor; the most recently used stay in memory, up to a bound. Threads may share it."""

    def __init__(self, processor: Any, limit: int = _CACHE_BYTES) -> None:
        self._processor = processor
        self._limit, self._used = limit, 0
        self._kept: OrderedDict[tuple[str, ...], Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, media: Media) -> Pixels:
        """Raises BadInput when the media cannot be read."""
        key = (media.kind, media.content_hash or media.where, *media.notes)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        pixels = self._process(media)
        with self._lock:
            self._keep(key, pixels)
        return pixels

    def _keep(self, key: tuple[str, ...], pixels: Pixels) -> None:
        if key in self._kept:  # another thread was faster
            return
        self._kept[key] = pixels
        self._used += pixels.bytes
        while self._used > self._limit:
            self._used -= self._kept.popitem(last=False)[1].bytes

    def _process(self, media: Media) -> Pixels:
        try:
            if media.kind == "image":
                pictures = [_tensor(read_image(media), media)]
                output = self._processor.image_processor(images=pictures, return_tensors="pt")
                return Pixels("image", output["pixel_values"], _grid(output["image_grid_thw"]))
            frames = [_tensor(frame, media) for frame in read_frames(media)]
            if len({frame.shape for frame in frames}) != 1:
                raise BadInput("frames_differ", f"{media.where} has frames of different sizes")
            output = self._processor.video_processor(
                videos=[torch.stack(frames)], do_sample_frames=False, return_tensors="pt"
            )
            grid = _grid(output["video_grid_thw"])
            return Pixels("video", output["pixel_values_videos"], grid, len(frames))
        except (OSError, ValueError, SyntaxError) as error:
            raise BadInput("media_unusable", f"{media.where} cannot be made into pixels: {error}") from error


def _tensor(data: bytes, media: Media) -> Tensor:
    return torch.from_numpy(np.array(rendered(data, media.notes, media.where))).permute(2, 0, 1)


def _grid(grids: Tensor) -> tuple[int, int, int]:
    t, h, w = grids[0].tolist()
    return t, h, w
