"""Training batches for the teacher: fresh draws of the world, as tokens, positions and patches.

Guarantee: the tokens before the reply are those that the chat template and the processor give for the same side, and
no draw comes from another split than `train`. A fifth of the attribute words in the reply's input is replaced while
the labels stay, so that attributes are read from the pixels and not from the words before.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from umer1_core.miniature import instructions as say
from umer1_core.miniature import world
from umer1_core.miniature.rendering import UNIT, render_image, render_media
from umer1_core.miniature.samples import PairSample, SideSample, draw_pair, image_side
from umer1_core.miniature.teacher_model import MERGE, PATCH
from umer1_core.miniature.teacher_text import PROMPT_CLOSE, PROMPT_OPEN, reply
from umer1_core.template import ANNOTATION_PROMPT, annotation_text

IMAGE_MEAN, IMAGE_STD = 0.5, 0.25
_CORRUPTED = 0.2
_CORRUPTED_BESIDE_TEXT = 0.05  # text is copied, and copying leans on the words before
_ATTRIBUTE_WEIGHT = 2.0
_OUTSIDE = 0.03
# (source, side, weight): what is hard is drawn more often.
_DRAWS = (
    ("mmeb/MSCOCO_i2t", "query", 8),
    ("mmeb/MSCOCO_t2i", "target", 6),
    ("mmeb/MSCOCO_i2t", "target", 4),
    ("mmeb/MSCOCO_t2i", "query", 4),
    ("mmeb/ImageNet_1K", "query", 3),
    ("mmeb/ImageNet_1K", "target", 1),
    ("mmeb/OK-VQA", "query", 15),
    ("mmeb/OK-VQA", "target", 2),
    ("mmeb/A-OKVQA", "query", 12),
    ("mmeb/A-OKVQA", "target", 1),
    ("mmeb/CIRR", "query", 10),
    ("llava_hound/caption_retrieval", "query", 6),
    ("llava_hound/caption_retrieval", "target", 2),
    ("llava_hound/video_retrieval", "query", 2),
    ("llava_hound/video_retrieval", "target", 3),
    ("llava_hound/qa", "query", 6),
    ("llava_hound/qa", "target", 1),
    ("vidore/colpali_train_set", "query", 11),
    ("vidore/colpali_train_set", "target", 2),
    ("visrag", "query", 5),
    ("visrag", "target", 10),
)
_SECONDS = ((0, 2, 4, 6), (0, 2, 4, 6), (0, 1, 2, 3), (0, 0, 1, 1), (0, 4, 8, 12), (1, 3, 5, 7))


@dataclass
class Batch:
    """Arguments of `reply_logits`, and the labels at the wanted places with their weight in the loss."""

    tokens: Tensor
    positions: Tensor
    patches: dict[tuple[int, int], Tensor]
    order: Tensor
    wanted: Tensor
    labels: Tensor
    weights: Tensor


@dataclass
class _Example:
    prompt: list[int]
    answer: list[int]
    pictures: list[np.ndarray] = field(default_factory=list)  # [2, height, width, 3] each, uint8


class BatchMaker:
    """Draws batches. One random state, so the same seed gives the same batches in the same order."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self._tokenizer = tokenizer
        self._rng = random.Random(seed)
        vocabulary = tokenizer.get_vocab()
        self._image, self._end = vocabulary["<|image|>"], vocabulary["<|endoftext|>"]
        self._alternatives = _alternatives(tokenizer)

    def draw(self, size: int, full_prompt: bool) -> Batch:
        """A batch of sides; without `full_prompt` a few words of the prompt stand for all of it."""
        prompt = ANNOTATION_PROMPT if full_prompt else _some_words(self._rng, ANNOTATION_PROMPT)
        return self._collate([self._example(self._side(), prompt) for _ in range(size)])

    def _side(self) -> SideSample:
        if self._rng.random() < _OUTSIDE:
            return _outside_side(self._rng)
        source, role, _ = self._rng.choices(_DRAWS, [weight for *_, weight in _DRAWS])[0]
        pair: PairSample = draw_pair(self._rng, "train", source)
        side = pair.query if role == "query" else pair.target
        if side.kind == "image" and side.summary.count(" at the ") and self._rng.random() < 0.15:
            assert isinstance(side.picture, world.Scene)
            return image_side(self._rng.choice(say.OTHER_IMAGE), side.picture)
        return side

    def _example(self, side: SideSample, prompt: str) -> _Example:
        said = side.text if prompt == ANNOTATION_PROMPT else _without_preamble(self._rng, side.text)
        text = annotation_text(said).replace(ANNOTATION_PROMPT, prompt)
        pictures = _pictures(self._rng, side)
        spoken, ends = reply(self._rng, side)
        head = self._encode(PROMPT_OPEN) + self._media(pictures, isinstance(side.picture, world.Clip))
        answer = self._encode(spoken) + ([self._end] if ends else [])
        return _Example(head + self._encode(text + PROMPT_CLOSE), answer, pictures)

    def _encode(self, text: str) -> list[int]:
        return cast(list[int], self._tokenizer.encode(text, add_special_tokens=False))

    def _media(self, pictures: Sequence[np.ndarray], clip: bool) -> list[int]:
        """Placeholders as the processor writes them: a clip's frames each with their second."""
        if not pictures:
            return []
        seconds = self._rng.choice(_SECONDS)
        frames = []
        for index, picture in enumerate(pictures):
            count = picture.shape[1] * picture.shape[2] // (PATCH * MERGE) ** 2
            frames += self._encode("<|begin_of_image|>") + [self._image] * count + self._encode("<|end_of_image|>")
            frames += self._encode(str(seconds[index % 4])) if clip else []
        return self._encode("<|begin_of_video|>") + frames + self._encode("<|end_of_video|>") if clip else frames

    def _collate(self, examples: list[_Example]) -> Batch:
        length = max(len(e.prompt) + len(e.answer) for e in examples) - 1
        tokens = torch.full((len(examples), length), self._end)
        positions = torch.zeros((3, len(examples), length), dtype=torch.long)
        wanted = torch.zeros((len(examples), length), dtype=torch.bool)
        labels: list[int] = []
        for row, example in enumerate(examples):
            share = _CORRUPTED if example.pictures else _CORRUPTED_BESIDE_TEXT
            full = example.prompt + self._corrupt(example.answer, share)
            tokens[row, : len(full) - 1] = torch.tensor(full[:-1])
            wanted[row, len(example.prompt) - 1 : len(full) - 1] = True
            positions[:, row] = _positions(tokens[row].tolist(), self._image, example.pictures)
            labels += example.answer
        patches, order = _pack_pictures([p for e in examples for p in e.pictures])
        weights = torch.tensor([_ATTRIBUTE_WEIGHT if label in self._alternatives else 1.0 for label in labels])
        return Batch(tokens, positions, patches, order, wanted, torch.tensor(labels), weights)

    def _corrupt(self, answer: list[int], share: float) -> list[int]:
        return [
            self._rng.choice(self._alternatives[token])
            if token in self._alternatives and self._rng.random() < share
            else token
            for token in answer
        ]


def _alternatives(tokenizer: PreTrainedTokenizerFast) -> dict[int, list[int]]:
    """For the token of an attribute word, the tokens of the words that could stand in its place."""
    families: list[tuple[str, ...]] = [world.COLOURS, world.SHAPES, world.SIZES, world.DIRECTIONS, world.TOPICS]
    families += [world.VALUES, ("top", "bottom"), ("left", "right"), ("upper", "lower")]
    found: dict[int, list[int]] = {}
    for family in families:
        for prefix in (" ", ""):
            encoded = [tokenizer.encode(prefix + word, add_special_tokens=False) for word in family]
            ids = [tokens[-1] for tokens in encoded if len(tokens) == 1 or family is world.VALUES]
            found |= dict.fromkeys(ids, ids)
    return found


def _some_words(rng: random.Random, text: str) -> str:
    words = text.split(" ")
    start, count = rng.randrange(len(words)), rng.randint(4, 16)
    return " ".join(words[start : start + count])


def _without_preamble(rng: random.Random, text: str) -> str:
    """VisRAG's long preambles come down to a few of their words while the prompt is short."""
    preamble, colon, query = text.partition("the query: ")
    return _some_words(rng, preamble) + " " + colon + query if colon else text


def _outside_side(rng: random.Random) -> SideSample:
    """Something from outside the world, which the teacher should say it does not know."""
    text = " ".join(
        "".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randint(2, 9))) for _ in range(rng.randint(1, 25))
    )
    if rng.random() < 0.5:
        return SideSample("text", text.capitalize(), None, "The text says something unknown.", "unknown text")
    instruction = rng.choice((say.IMAGE_TARGET, say.I2T, say.QUESTION + text + "?", ""))
    return SideSample("image", instruction, world.Scene(()), "The image shows something unknown.", "unknown image")


def _pictures(rng: random.Random, side: SideSample) -> list[np.ndarray]:
    """What the processor would hand to the model: pairs of frames at the model's input size."""
    if side.picture is None:
        return []
    if isinstance(side.picture, world.Scene) and not side.picture.things:
        return [_doubled(_blotches(rng))]
    if not isinstance(side.picture, world.Clip):
        return [_doubled(_shrink(render_image(side.picture, rng)))]
    frames = [np.asarray(_shrink(frame)) for frame in render_media(side.picture, rng)]
    return [np.stack(frames[i : i + 2]) for i in range(0, 8, 2)]


def _shrink(image: Image.Image) -> Image.Image:
    scale = image.width // UNIT
    return image.resize((UNIT, image.height // scale), Image.Resampling.BICUBIC)


def _doubled(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return np.stack([pixels, pixels])


def _blotches(rng: random.Random) -> Image.Image:
    """Soft blotches of any colour, in the place of photographs."""
    small = np.frombuffer(rng.randbytes(8 * 8 * 3), np.uint8).reshape(8, 8, 3)
    size = rng.choice(((32, 32), (48, 32), (32, 48)))
    picture = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2)))


def _positions(tokens: list[int], image_token: int, pictures: Sequence[np.ndarray]) -> Tensor:
    """Three-dimensional positions as `Glm4vModel.get_rope_index` gives them: [3, length]."""
    result = torch.zeros((3, len(tokens)), dtype=torch.long)
    starts = [i for i in range(len(tokens)) if tokens[i] == image_token and tokens[i - 1] != image_token]
    place, at = 0, 0
    for start, picture in zip(starts, pictures, strict=True):
        rows, columns = (side // (PATCH * MERGE) for side in picture.shape[1:3])
        result[:, at:start] = torch.arange(start - at) + place
        place += start - at
        cells = torch.arange(rows * columns)
        result[:, start : start + len(cells)] = torch.stack([cells * 0, cells // columns, cells % columns]) + place
        place, at = place + max(rows, columns), start + len(cells)
    result[:, at:] = torch.arange(len(tokens) - at) + place
    return result


def _pack_pictures(pictures: Sequence[np.ndarray]) -> tuple[dict[tuple[int, int], Tensor], Tensor]:
    """Pictures by grid, and for the batch's placeholders in order the number of their visual token."""
    by_grid: dict[tuple[int, int], list[int]] = {}
    for index, picture in enumerate(pictures):
        by_grid.setdefault((picture.shape[1] // PATCH, picture.shape[2] // PATCH), []).append(index)
    places: dict[int, Tensor] = {}
    offset = 0
    for (rows, columns), members in by_grid.items():
        count = rows * columns // MERGE**2
        for index in members:
            places[index] = torch.arange(offset, offset + count)
            offset += count
    packed = {grid: _patchify(np.stack([pictures[i] for i in members])) for grid, members in by_grid.items()}
    order = torch.cat([places[i] for i in range(len(pictures))]) if pictures else torch.zeros(0, dtype=torch.long)
    return packed, order


def _patchify(pictures: np.ndarray) -> Tensor:
    """[pictures, 2, height, width, 3] to normalised patches by merged blocks: [pictures, patches, pixels]."""
    count, _, height, width, _ = pictures.shape
    pixels = (torch.from_numpy(pictures).float() / 255 - IMAGE_MEAN) / IMAGE_STD
    block = PATCH * MERGE
    split = pixels.view(count, 2, height // block, MERGE, PATCH, width // block, MERGE, PATCH, 3)
    return split.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(count, height * width // PATCH**2, -1)
