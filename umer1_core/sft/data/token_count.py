"""How many tokens a side will have, from its text and the sizes of its media; no pixel is decoded.

Visual tokens are what the checkpoint's own processors make of a picture of that size: they are run on `meta` tensors,
which have a shape and no content, once for each size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from schemas.sources import MediaRules
from umer1_core.backbone.collate import chat_text, check_tokens
from umer1_core.backbone.model import Backbone
from umer1_core.backbone.pixels import Pixels
from umer1_core.errors import BadInput
from umer1_core.media import read_frames, read_image
from umer1_core.media.describing import look
from umer1_core.pairs import Media
from umer1_core.store import fingerprint

_ANY_SIZE = MediaRules(max_pixels=2**62)
_Side = tuple[str, Sequence[Media], str]  # prompt, media, response
_Shape = tuple[int, int, int]  # frames (0: a picture), height, width


class TokenCounter:
    """Counts for one backbone's encoder. `fingerprint` changes with whatever a count depends on."""

    def __init__(self, backbone: Backbone, responses: bool = True) -> None:
        """responses: False counts prompts alone."""
        self._processor, self._ids, self._family = backbone.processor, backbone.ids, backbone.family
        self._responses = responses
        self._visual: dict[_Shape, int] = {}
        self.fingerprint = fingerprint(
            responses,
            backbone.model.config.model_type,
            self._processor.tokenizer.backend_tokenizer.to_str(),
            self._processor.chat_template,
            self._processor.image_processor.to_json_string(),
            self._processor.video_processor.to_json_string(),
        )

    def count(self, sides: Sequence[_Side]) -> list[int | BadInput]:
        """Tokens of each side, or why it has none. Texts are tokenised together, on all of the tokenizer's threads."""
        prompts = self._tokens([chat_text(self._processor, prompt, media) for prompt, media, _ in sides])
        written = [response if self._responses else "" for *_, response in sides]
        responses = iter(self._tokens([text for text in written if text]))
        return [
            self._side(tokens, media, next(responses) if text else [])
            for tokens, (_, media, _), text in zip(prompts, sides, written, strict=True)
        ]

    def visual_tokens(self, media: Media) -> int:
        """Placeholders that a picture or clip takes. Raises BadInput when its size is not known and cannot be read."""
        shape = _shape(media)
        if shape not in self._visual:
            self._visual[shape] = self._run(shape, media)
        return self._visual[shape]

    def _side(self, prompt: list[int], media: Sequence[Media], response: list[int]) -> int | BadInput:
        try:
            check_tokens(self._ids, prompt, media, response)
            visual = sum(self.visual_tokens(item) for item in media)
        except BadInput as error:
            return error
        end_of_turn = 1 if response else 0
        return len(prompt) - len(media) + visual + len(response) + end_of_turn

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        return list(self._processor.tokenizer(texts, add_special_tokens=False)["input_ids"]) if texts else []

    def _run(self, shape: _Shape, media: Media) -> int:
        frames, height, width = shape
        picture = torch.empty((frames or 1, 3, height, width), dtype=torch.uint8, device="meta")
        processor, nothing = self._processor, torch.empty(0)
        try:
            if media.kind == "image":
                output = processor.image_processor(images=[picture[0]], return_tensors="pt")
                pixels, token = Pixels("image", nothing, _grid(output["image_grid_thw"])), self._ids.image
            else:
                output = processor.video_processor(videos=[picture], do_sample_frames=False, return_tensors="pt")
                pixels, token = Pixels("video", nothing, _grid(output["video_grid_thw"]), frames), self._ids.video
        except ValueError as error:  # as the processor refuses the picture itself
            raise BadInput("media_unusable", f"{media.where} cannot be made into pixels: {error}") from error
        return len(self._family.placeholders(pixels, processor, token))


def _grid(grids: torch.Tensor) -> tuple[int, int, int]:
    t, h, w = grids[0].tolist()
    return t, h, w


def _shape(media: Media) -> _Shape:
    frames = len(media.frames) if media.kind == "video" else 0
    size = next((note.removeprefix("resize:") for note in media.notes if note.startswith("resize:")), "")
    if size:
        width, height = map(int, size.split("x"))
    elif media.width and media.height:
        width, height = media.width, media.height
    else:
        data = read_image(media) if media.kind == "image" else read_frames(media)[0]
        width, height, _ = look(data, media.where, _ANY_SIZE)
    return frames, height, width
