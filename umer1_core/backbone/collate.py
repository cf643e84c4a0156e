"""Sides as model inputs: chat rendering, token rows with their media, padded batches.

Guarantees: media stand before the text; labels are on the assistant turn only, `<gen_emb>` and the end of the turn
included; prompt and response are tokenised apart, so training sees the tokens that generation continues from; a
sequence over the limit is a BadInput with its length, never cut (the released collator cuts `<gen_emb>` off).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from umer1_core.backbone.model import Backbone, TokenIds
from umer1_core.backbone.pixels import PixelReader, Pixels
from umer1_core.errors import BadInput
from umer1_core.pairs import Media

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence: the user turn up to where the assistant begins, and the assistant turn (empty for generation)."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    pixels: tuple[Pixels, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded rows. ids, mask, media_types, labels: [batch, length]; user, assistant: [batch, 2], spans of the turns."""

    ids: Tensor
    mask: Tensor
    media_types: Tensor
    labels: Tensor
    user: Tensor
    assistant: Tensor
    pixels: tuple[Pixels, ...]

    def grids(self, kind: str) -> Tensor | None:
        """[media, 3] of one kind in order, or None."""
        grids = [p.grid for p in self.pixels if p.kind == kind]
        return torch.tensor(grids) if grids else None


class Encoder:
    """Makes rows for one backbone."""

    def __init__(self, backbone: Backbone, max_tokens: int) -> None:
        self._processor, self._ids, self._max_tokens = backbone.processor, backbone.ids, max_tokens
        self._reader = PixelReader(backbone.processor)

    def encode(self, prompt: str, media: Sequence[Media], response: str = "") -> Row:
        """Raises BadInput when media cannot be read, the text holds placeholders, or the row is too long."""
        pixels = tuple(self._reader.read(item) for item in media)
        tokenizer = self._processor.tokenizer
        bare = tokenizer(self._render(prompt, media), add_special_tokens=False)["input_ids"]
        user = _expand(bare, pixels, self._ids, self._processor.image_processor.merge_size**2)
        turn: list[int] = []
        if response:
            turn = [*tokenizer(response, add_special_tokens=False)["input_ids"], self._ids.end_of_turn]
        if len(user) + len(turn) > self._max_tokens:
            raise BadInput("too_many_tokens", f"{len(user) + len(turn)} tokens, the limit is {self._max_tokens}")
        return Row(tuple(user), tuple(turn), pixels)

    def _render(self, prompt: str, media: Sequence[Media]) -> str:
        parts: list[dict[str, Any]] = [{"type": item.kind} for item in media]
        message = {"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}
        return self._processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)


def collate(rows: Sequence[Row], ids: TokenIds, device: torch.device, pad: Literal["left", "right"] = "right") -> Batch:
    """Pad rows into a batch."""
    length = max(map(len, rows))
    starts = [length - len(row) if pad == "left" else 0 for row in rows]
    tokens = torch.full((len(rows), length), ids.pad)
    mask = torch.zeros_like(tokens)
    labels = torch.full_like(tokens, IGNORED)
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        end, border = start + len(row), start + len(row.prompt)
        tokens[i, start:end] = torch.tensor([*row.prompt, *row.response])
        mask[i, start:end] = 1
        labels[i, border:end] = tokens[i, border:end]
    border_of = [start + len(row.prompt) for row, start in zip(rows, starts, strict=True)]
    user = torch.tensor(list(zip(starts, border_of, strict=True)))
    assistant = torch.tensor([(b, s + len(r)) for b, s, r in zip(border_of, starts, rows, strict=True)])
    types = ((tokens == ids.image) + 2 * (tokens == ids.video)) * mask
    return Batch(
        ids=tokens.to(device),
        mask=mask.to(device),
        media_types=types.int().to(device),
        labels=labels.to(device),
        user=user.to(device),
        assistant=assistant.to(device),
        pixels=tuple(p for row in rows for p in row.pixels),
    )


def _expand(tokens: Sequence[int], pixels: Sequence[Pixels], ids: TokenIds, merged: int) -> list[int]:
    """Put as many placeholders as a picture or clip has visual tokens in the place of its one."""
    kinds = {ids.image: "image", ids.video: "video"}
    if [kinds[t] for t in tokens if t in kinds] != [p.kind for p in pixels]:
        raise BadInput("placeholder_in_text", "the text holds a media placeholder of the student's own template")
    counts = iter(p.grid[0] * p.grid[1] * p.grid[2] // merged for p in pixels)
    expanded: list[int] = []
    for token in tokens:
        expanded += [token] * (next(counts) if token in kinds else 1)
    return expanded
