"""A tiny policy and its prompts for the tests of vLLM: what it samples is judged by transformers' own forward pass."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from schemas.sources import MediaRules
from tests.grpo.by_hand import full_states
from tests.student import clip, picture, small_student
from umer1_core.backbone.collate import Encoder, Row
from umer1_core.backbone.model import Backbone, load_backbone, save_backbone
from umer1_core.grpo.rollouts.face import Completion, Prompt, Sampling, SaveWeights
from umer1_core.media import describe
from umer1_core.pairs import Media, Side
from umer1_core.template import training_prompt


def policy(folder: Path, noise: int | None = None) -> Backbone:
    """A copy of the small student, its weights moved by noise of this seed."""
    save_backbone(small_student(), folder)
    backbone = load_backbone(str(folder))
    if noise is not None:
        random = torch.Generator().manual_seed(noise)
        with torch.no_grad():
            for parameter in backbone.model.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=random)
    return backbone


def saver(backbone: Backbone) -> SaveWeights:
    return lambda folder: save_backbone(backbone, folder)


def sampling(backbone: Backbone, temperature: float = 1.0, tokens: int = 12, banned: bool = True) -> Sampling:
    ids = backbone.ids
    return Sampling(temperature, tokens, (ids.image, ids.video) if banned else ())


def prompts_of(backbone: Backbone, folder: Path) -> list[Prompt]:
    """A text, a picture, one that is rendered first (half transparent, and scaled down), a clip, and one of one frame.

    The text is longer than a block of vLLM's prefix cache (128 tokens on the CPU), which would be kept otherwise.
    """
    encoder = Encoder(backbone, 2_000)
    sides = [
        Side("A red disc at the left. " * 20),
        Side("Find a caption that describes the given picture", (picture(folder, "red"),)),
        Side("Find a caption that describes the given picture", (_see_through(folder),)),
        Side("What is shown in the clip?", (clip(folder, "blue"),)),
        Side("What is shown in the clip?", (_still(clip(folder, "green")),)),
    ]
    prompts = []
    for side in sides:
        text = training_prompt(side.text)
        prompts.append(Prompt(side.key, text, side.media, encoder.encode(text, side.media)))
    return prompts


def _still(media: Media) -> Media:
    return describe(Media("video", media.uri, frames=media.frames[:1]))


def _see_through(folder: Path) -> Media:
    image = Image.merge("RGB", [Image.radial_gradient("L")] * 2 + [Image.linear_gradient("L")]).resize((640, 512))
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(folder / "see-through.png")
    return describe(Media("image", str(folder / "see-through.png")), MediaRules(max_pixels=100_000))


@torch.no_grad()
def logprobs(backbone: Backbone, row: Row, completion: Completion, how: Sampling) -> Tensor:
    """[ids], by one forward pass over prompt and completion: of the distribution that is sampled from."""
    states, _ = full_states(backbone, row, completion.ids)
    logits = backbone.model.lm_head(states[len(row.prompt) - 1 : -1]).float()
    logits[:, list(how.banned)] -= 100
    chosen = (logits / how.temperature).log_softmax(-1)
    return chosen.gather(1, torch.tensor(completion.ids).unsqueeze(1))[:, 0]
