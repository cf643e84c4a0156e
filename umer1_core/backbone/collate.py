"""Sides as model inputs: chat rendering, token rows with their media and positions, packed or padded batches.

Guarantees: media stand before the text; labels are on the assistant turn only, `<gen_emb>` and the end of the turn
included; prompt and response are tokenised apart, so training sees the tokens that generation continues from; a
sequence over the limit is a BadInput with its length, never cut (the released collator cuts `<gen_emb>` off);
M-RoPE positions are those of the sequence alone, wherever it comes to stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor

from umer1_core.backbone.model import Backbone, TokenIds
from umer1_core.backbone.pixels import PixelReader, Pixels
from umer1_core.errors import BadInput
from umer1_core.pairs import Media

IGNORED = -100
Layout = Literal["packed", "left", "right"]


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence: the user turn up to where the assistant begins, and the assistant turn (empty for generation).

    positions: [3, length], the M-RoPE positions of this sequence alone.
    """

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    pixels: tuple[Pixels, ...]
    positions: Tensor

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows packed into one line, or padded to one line each.

    ids, mask, media_types, labels: [lines, length]; positions: [3, lines, length], zero at padding;
    user, assistant: [rows, 2], spans of the turns in `ids.flatten()`; pixels: of all rows in order;
    bounds: int32 [rows + 1], where each row starts in the one line, and its end; None where rows are padded;
    longest, real: tokens of the longest row and of all rows.
    """

    ids: Tensor
    mask: Tensor
    media_types: Tensor
    labels: Tensor
    positions: Tensor
    user: Tensor
    assistant: Tensor
    bounds: Tensor | None
    pixels: tuple[Pixels, ...]
    longest: int
    real: int

    @property
    def processed(self) -> int:
        """Tokens that go through the model, padding included."""
        return self.ids.numel()

    def grids(self, kind: str) -> Tensor | None:
        """[media, 3] of one kind in order, or None."""
        return _grids(self.pixels, kind)


class Encoder:
    """Makes rows for one backbone."""

    def __init__(self, backbone: Backbone, max_tokens: int) -> None:
        self._processor, self._ids, self._family = backbone.processor, backbone.ids, backbone.family
        self._model: Any = backbone.model.model
        self._max_tokens = max_tokens
        self._reader = PixelReader(backbone.processor)

    def encode(self, prompt: str, media: Sequence[Media], response: str = "") -> Row:
        """Raises BadInput: media that cannot be read, `placeholder_in_text`, `no_disc_emb`, `no_gen_emb` (a response
        without it), `too_many_tokens`."""
        pixels = tuple(self._reader.read(item) for item in media)
        tokenizer = self._processor.tokenizer
        bare = tokenizer(chat_text(self._processor, prompt, media), add_special_tokens=False)["input_ids"]
        turn: list[int] = []
        if response:
            turn = [*tokenizer(response, add_special_tokens=False)["input_ids"], self._ids.end_of_turn]
        check_tokens(self._ids, bare, media, turn)
        user = self._expand(bare, pixels)
        if len(user) + len(turn) > self._max_tokens:
            raise BadInput("too_many_tokens", f"{len(user) + len(turn)} tokens, the limit is {self._max_tokens}")
        return Row(tuple(user), tuple(turn), pixels, self._positions([*user, *turn], pixels))

    def _expand(self, tokens: Sequence[int], pixels: Sequence[Pixels]) -> list[int]:
        """Put what a picture or clip takes in the place of its one placeholder."""
        shown = iter(pixels)
        expanded: list[int] = []
        for token in tokens:
            is_media = token in (self._ids.image, self._ids.video)
            expanded += self._family.placeholders(next(shown), self._processor, token) if is_media else [token]
        return expanded

    def _positions(self, tokens: Sequence[int], pixels: Sequence[Pixels]) -> Tensor:
        ids = torch.tensor([tokens])
        if not pixels:
            return torch.arange(len(tokens)).expand(3, -1)
        positions, _ = self._model.get_rope_index(
            ids,
            mm_token_type_ids=_media_types(ids, self._ids),
            image_grid_thw=_grids(pixels, "image"),
            video_grid_thw=_grids(pixels, "video"),
        )
        return _behind_media(positions[:, 0], _media_types(ids, self._ids)[0])


def chat_text(processor: Any, prompt: str, media: Sequence[Media]) -> str:
    """The user turn up to where the assistant begins, with one placeholder for each medium, before the text."""
    parts: list[dict[str, Any]] = [{"type": item.kind} for item in media]
    message = {"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}
    return str(processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True))


def check_tokens(ids: TokenIds, prompt: Sequence[int], media: Sequence[Media], response: Sequence[int]) -> None:
    """Raises BadInput for a sequence that no embedding can be read from, or whose text poses as media.

    prompt: tokens of `chat_text`, not expanded; response: empty where there is none.
    """
    kinds = {ids.image: "image", ids.video: "video"}
    if [kinds[token] for token in prompt if token in kinds] != [item.kind for item in media]:
        raise BadInput("placeholder_in_text", "the text holds a media placeholder of the student's own template")
    if ids.disc not in prompt:
        raise BadInput("no_disc_emb", "the prompt has no <disc_emb>, so there is no embedding to read")
    if response and ids.gen not in response:
        raise BadInput("no_gen_emb", "the response has no <gen_emb>, so there is no embedding to read")


def collate(rows: Sequence[Row], ids: TokenIds, device: torch.device, layout: Layout = "right") -> Batch:
    """Rows as a batch: one line behind the other in one line (`packed`), or padded on one side.

    Without rows: one token of padding, for a rank that has nothing to do while the others run.
    """
    lengths = [len(row) for row in rows]
    width = max(1, sum(lengths) if layout == "packed" else max(lengths, default=1))
    starts = _starts(lengths, width, layout)
    lines = 1 if layout == "packed" else max(1, len(rows))
    tokens = torch.full((lines * width,), ids.pad)
    mask, labels = torch.zeros_like(tokens), torch.full_like(tokens, IGNORED)
    positions = torch.zeros(3, lines * width, dtype=torch.long)
    for row, start in zip(rows, starts, strict=True):
        border, end = start + len(row.prompt), start + len(row)
        tokens[start:end] = torch.tensor([*row.prompt, *row.response])
        mask[start:end] = 1
        labels[border:end] = tokens[border:end]
        positions[:, start:end] = row.positions
    borders = [start + len(row.prompt) for row, start in zip(rows, starts, strict=True)]
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    bounds = torch.tensor([*starts, width] if rows else [0, width], dtype=torch.int32)
    return Batch(
        ids=tokens.view(lines, width).to(device),
        mask=mask.view(lines, width).to(device),
        media_types=(_media_types(tokens, ids) * mask).view(lines, width).to(device),
        labels=labels.view(lines, width).to(device),
        positions=positions.view(3, lines, width).to(device),
        user=_spans(starts, borders).to(device),
        assistant=_spans(borders, ends).to(device),
        bounds=bounds.to(device) if layout == "packed" else None,
        pixels=tuple(p for row in rows for p in row.pixels),
        longest=max(lengths, default=1),
        real=sum(lengths),
    )


def _starts(lengths: Sequence[int], width: int, layout: Layout) -> list[int]:
    """Where each row starts when the lines stand one behind the other."""
    if layout == "packed":
        return [0, *accumulate(lengths)][: len(lengths)]
    return [i * width + (width - length if layout == "left" else 0) for i, length in enumerate(lengths)]


def _spans(starts: Sequence[int], ends: Sequence[int]) -> Tensor:
    return torch.tensor([starts, ends], dtype=torch.long).T


def _media_types(tokens: Tensor, ids: TokenIds) -> Tensor:
    """1 at the placeholders of images, 2 at those of clips."""
    return ((tokens == ids.image) + 2 * (tokens == ids.video)).int()


def _behind_media(positions: Tensor, types: Tensor) -> Tensor:
    """[3, length]: what follows a medium starts behind its last position, as checkpoints were trained, and as in vLLM.

    The library (5.19) goes on from the medium's height and width alone: behind a clip whose times run further, text
    would stand inside the clip.
    """
    positions = positions.clone()
    ends = ((types[:-1] > 0) & (types[1:] == 0)).nonzero()[:, 0] + 1
    for end in ends.tolist():
        positions[:, end:] += positions[:, :end].max() + 1 - positions[0, end]
    return positions


def _grids(pixels: Sequence[Pixels], kind: str) -> Tensor | None:
    grids = [p.grid for p in pixels if p.kind == kind]
    return torch.tensor(grids) if grids else None
