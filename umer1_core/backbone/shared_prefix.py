"""Groups of rollouts as one line in which each prompt, with its media, stands once.

For each group: `[prompt without its last token | last + c1 | last + c2 | … | last + cG]`. Every segment begins with the
prompt's last token again, so each id of a completion has one place that predicts it and no place predicts two.
Guarantees: log-probs, states and gradients are those of the rollouts as separate sequences; a completion's M-RoPE
positions go on from the greatest of its prompt's, as they do in generation; nothing is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from umer1_core.backbone.attention import ATTENTION
from umer1_core.backbone.collate import IGNORED, Row
from umer1_core.backbone.model import Backbone, TokenIds
from umer1_core.backbone.pixels import Pixels
from umer1_core.backbone.prefix_layout import SharedPrefix, lay_out
from umer1_core.backbone.vision import blank
from umer1_core.errors import BadInput


@dataclass(frozen=True, slots=True)
class Group:
    """The rollouts of one side. prompt: without a response; completions: at least one, each of at least one id.

    Raises ValueError where they are not.
    """

    prompt: Row
    completions: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if self.prompt.response or not self.prompt.prompt:
            raise ValueError("A group's prompt is a user turn: it is not empty and has no response.")
        if not self.completions or not all(self.completions):
            raise ValueError("A group has at least one completion, and each completion at least one id.")

    def tokens(self, share: bool = True) -> int:
        """What the group takes of a line."""
        prompt, written = len(self.prompt), sum(map(len, self.completions))
        return prompt - 1 + len(self.completions) + written if share else prompt * len(self.completions) + written


@dataclass(frozen=True, slots=True)
class SharedBatch:
    """Groups behind each other in one line. Spans are first place and one past the last, in `ids.flatten()`.

    ids: [1, length]; positions: [4, 1, length], places inside a prefix or segment, and the three rows of M-RoPE;
    shift_labels: [1, length], what each place predicts, -100 where nothing; predicting: [rollouts, 2], spans of the
    places that predict a rollout's ids, in the order of groups; written: [rollouts, 2], of the ids themselves;
    user: [groups, 2], of the user turn (without its last token where it is shared; its first copy where it is not);
    layout: what attention needs; pixels: of all groups in order, as often as they are shown;
    real: tokens of all rollouts, each with its prompt.
    """

    ids: Tensor
    positions: Tensor
    shift_labels: Tensor
    predicting: Tensor
    written: Tensor
    user: Tensor
    layout: SharedPrefix
    pixels: tuple[Pixels, ...]
    real: int

    @property
    def processed(self) -> int:
        """Tokens that go through the model."""
        return self.ids.numel()


@dataclass(frozen=True, slots=True)
class _Part:
    """A prefix or a segment: tokens, positions [3, tokens], and how many of the last ones are written by the policy."""

    tokens: tuple[int, ...]
    positions: Tensor
    written: int = 0


_Tree = tuple[_Part, list[_Part]]
"""A prefix and the segments that see it."""


def collate_groups(
    groups: Sequence[Group],
    ids: TokenIds,
    device: torch.device,
    share: bool = True,
    blanks: Sequence[Pixels] = (),
) -> SharedBatch:
    """share: False is the plain way, a copy of prompt and media for each rollout. blanks: as `blank_media` gives them;
    what the line has none of is shown in front of it, seen by no one, so that every rank runs the same layers.

    Without groups: one token of padding, or the blanks. Raises BadInput `placeholder_in_completion`.
    """
    _check(groups, ids)
    shown = [p for g in groups for p in g.prompt.pixels * (1 if share else len(g.completions))]
    missing = [p for p in blanks if p.kind not in {pixels.kind for pixels in shown}]
    trees: list[_Tree] = [(_blank_part(pixels, ids), []) for pixels in missing]
    trees += [tree for group in groups for tree in (_shared(group) if share else _plain(group))]
    trees = trees or [(_Part((ids.pad,), torch.zeros(3, 1, dtype=torch.long)), [])]
    parts = [part for prefix, segments in trees for part in (prefix, *segments)]
    sizes = [len(part.tokens) for part in parts]
    ends = torch.tensor(sizes).cumsum(0)
    tokens = torch.tensor([token for part in parts for token in part.tokens])
    positions = torch.cat([part.positions for part in parts], dim=1)
    within = torch.cat([torch.arange(size) for size in sizes])
    count = torch.tensor([part.written for part in parts])
    written = torch.stack([ends - count, ends], dim=1)[count > 0]
    return SharedBatch(
        ids=tokens.unsqueeze(0).to(device),
        positions=torch.cat([within.unsqueeze(0), positions]).unsqueeze(1).to(device),
        shift_labels=_shifted(tokens, written).unsqueeze(0).to(device),
        predicting=(written - 1).to(device),
        written=written.to(device),
        user=_user_spans(groups, share, len(missing)).to(device),
        layout=lay_out([(len(p.tokens), [len(s.tokens) for s in segments]) for p, segments in trees], device),
        pixels=(*missing, *shown),
        real=sum(group.tokens(share=False) for group in groups),
    )


def model_inputs(backbone: Backbone, batch: SharedBatch) -> dict[str, Any]:
    """What the model takes, pixels included: `model(**inputs, shift_labels=batch.shift_labels, fused_lm_head=True)`.

    Raises ValueError for a backbone with another attention, which would let rollouts see each other.
    """
    if backbone.model.config._attn_implementation != ATTENTION:
        raise ValueError(f"A line of shared prefixes needs the attention {ATTENTION}: load the backbone with it.")
    tower = backbone.model.model.visual
    inputs: dict[str, Any] = {
        "input_ids": batch.ids,
        "attention_mask": None,
        "position_ids": batch.positions,
        "use_cache": False,
        "shared_prefix": batch.layout,
    }
    for kind, values, grids in (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    ):
        pixels = [p for p in batch.pixels if p.kind == kind]
        if pixels:
            inputs[values] = torch.cat([p.patches for p in pixels]).to(tower.device, tower.dtype)
            inputs[grids] = torch.tensor([p.grid for p in pixels], device=tower.device)
    return inputs


def blank_media(backbone: Backbone) -> tuple[Pixels, ...]:
    """A picture and a clip of one visual token each, all zero: what `collate_groups` shows where a line lacks media.

    Both, since the library runs the tower once for pictures and once for clips.
    """
    picture = blank(backbone)
    return picture, Pixels("video", picture.patches, picture.grid)


def _shared(group: Group) -> list[_Tree]:
    prompt, at = group.prompt.prompt, group.prompt.positions
    segments = [
        _Part((prompt[-1], *ids), torch.cat([at[:, -1:], _after(at, len(ids))], dim=1), len(ids))
        for ids in group.completions
    ]
    return [(_Part(prompt[:-1], at[:, :-1]), segments)]


def _plain(group: Group) -> list[_Tree]:
    prompt, at = group.prompt.prompt, group.prompt.positions
    return [
        (_Part((*prompt, *ids), torch.cat([at, _after(at, len(ids))], dim=1), len(ids)), [])
        for ids in group.completions
    ]


def _after(prompt: Tensor, length: int) -> Tensor:
    """Positions of what is written after a prompt: [3, length], the same on all three axes."""
    return (prompt.max() + 1 + torch.arange(length)).expand(3, -1)


def _blank_part(pixels: Pixels, ids: TokenIds) -> _Part:
    return _Part((ids.image if pixels.kind == "image" else ids.video,), torch.zeros(3, 1, dtype=torch.long))


def _shifted(tokens: Tensor, written: Tensor) -> Tensor:
    """What each place predicts, of the ids in the written spans."""
    labels = torch.full_like(tokens, IGNORED)
    for start, end in written.tolist():
        labels[start - 1 : end - 1] = tokens[start:end]
    return labels


def _user_spans(groups: Sequence[Group], share: bool, first: int) -> Tensor:
    spans = []
    for group in groups:
        spans.append((first, first + len(group.prompt) - int(share)))
        first += group.tokens(share)
    return torch.tensor(spans, dtype=torch.long).view(-1, 2)


def _check(groups: Sequence[Group], ids: TokenIds) -> None:
    for group in groups:
        for completion in group.completions:
            if ids.image in completion or ids.video in completion:
                raise BadInput(
                    "placeholder_in_completion", "a completion holds a media placeholder, for which there is no medium"
                )
