"""Who sees whom in a line where rollouts share a prefix: prefixes, and behind each of them its segments.

Guarantees: a prefix token sees its prefix up to itself; a segment's token sees the whole prefix of its group and its
own segment up to itself, and nothing else. Made once a batch; every layer reads the same indices. Segments run in
padded blocks of like size, so that the cost is that of [segment, prefix + segment] for each, not of [line, line].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

_MOST_PADDING = 1.3  # cells of a block against those of its segments
_CHEAP_CELLS = 1 << 15  # padding below this costs less than one more block
_MOST_CELLS = 1 << 24  # bounds the mask of a block of several segments


@dataclass(frozen=True, slots=True)
class Block:
    """Segments of like size with their prefixes, one a row; prefixes are padded on the left, segments on the right.

    queries: [rows * longest], places in the line; keys: [rows * (longest prefix + longest)], likewise;
    mask: bool [rows or 1, 1, longest, longest prefix + longest], true where a query sees a key; every query sees one.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor
    rows: int


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """prefixes: [prefix tokens], their places in the line; bounds: int32 [prefixes + 1], where each starts among these;
    longest: of the prefixes; back: [line], where each token stands among all prefixes and the rows of all blocks.
    """

    prefixes: Tensor
    bounds: Tensor
    longest: int
    blocks: tuple[Block, ...]
    back: Tensor


@dataclass(frozen=True, slots=True)
class _Segment:
    """Where it stands and how long it is; the same of its prefix."""

    start: int
    length: int
    prefix_start: int
    prefix: int

    @property
    def cells(self) -> int:
        return self.length * (self.prefix + self.length)


def lay_out(groups: Sequence[tuple[int, Sequence[int]]], device: torch.device) -> SharedPrefix:
    """groups: tokens of each prefix and of its segments, as they stand behind each other in the line; a prefix may be
    empty, or have no segments."""
    starts = [0, *accumulate(prefix + sum(segments) for prefix, segments in groups)]
    firsts = [(start, prefix) for start, (prefix, _) in zip(starts, groups, strict=False) if prefix]
    places = [torch.arange(start, start + prefix) for start, prefix in firsts]
    prefixes = torch.cat(places) if places else torch.empty(0, dtype=torch.long)
    back = torch.empty(starts[-1], dtype=torch.long)
    back[prefixes] = torch.arange(len(prefixes))
    blocks, offset = [], len(prefixes)
    for members in _like_sized(list(_segments(groups, starts))):
        blocks.append(_block(members, device))
        longest = max(segment.length for segment in members)
        for row, segment in enumerate(members):
            first = offset + row * longest
            back[segment.start : segment.start + segment.length] = torch.arange(first, first + segment.length)
        offset += len(members) * longest
    bounds = torch.tensor([0, *accumulate(prefix for _, prefix in firsts)], dtype=torch.int32)
    longest = max((prefix for _, prefix in firsts), default=0)
    return SharedPrefix(prefixes.to(device), bounds.to(device), longest, tuple(blocks), back.to(device))


def _segments(groups: Sequence[tuple[int, Sequence[int]]], starts: Sequence[int]) -> Iterator[_Segment]:
    for start, (prefix, segments) in zip(starts, groups, strict=False):
        place = start + prefix
        for length in segments:
            yield _Segment(place, length, start, prefix)
            place += length


def _like_sized(segments: Sequence[_Segment]) -> list[list[_Segment]]:
    """Blocks by first fit, longest segments first."""
    blocks: list[_Members] = []
    for segment in sorted(segments, key=lambda s: (-s.length, -s.prefix, s.start)):
        home = next((block for block in blocks if block.has_room(segment)), None)
        if home is None:
            home = _Members([], segment.length, segment.prefix)
            blocks.append(home)
        home.add(segment)
    return [block.segments for block in blocks]


@dataclass(slots=True)
class _Members:
    """A block as it grows. longest: its first segment; prefix: the longest prefix; own: cells without padding."""

    segments: list[_Segment]
    longest: int
    prefix: int
    own: int = 0
    alike: bool = True

    def has_room(self, segment: _Segment) -> bool:
        """Whether it would pad little, and its mask stay small; segments of one prefix share a mask."""
        rows, prefix = len(self.segments) + 1, max(self.prefix, segment.prefix)
        cells, own = self.longest * (prefix + self.longest), self.own + segment.cells
        masked = cells if self.alike and segment.prefix == self.prefix else rows * cells
        return masked <= _MOST_CELLS and rows * cells <= max(_MOST_PADDING * own, own + _CHEAP_CELLS)

    def add(self, segment: _Segment) -> None:
        self.alike = self.alike and segment.prefix == self.prefix
        self.prefix = max(self.prefix, segment.prefix)
        self.own += segment.cells
        self.segments.append(segment)


def _block(members: Sequence[_Segment], device: torch.device) -> Block:
    start, length, prefix_start, prefix = (
        torch.tensor(column).unsqueeze(1)
        for column in zip(*((s.start, s.length, s.prefix_start, s.prefix) for s in members), strict=True)
    )
    longest, before = int(length.max()), int(prefix.max())
    # Padding repeats a token of its own row: nothing real sees it, and what it makes is thrown away.
    own = start + torch.minimum(torch.arange(longest), length - 1)
    shared = prefix_start + (torch.arange(before) - before + prefix).clamp(min=0)
    key, query = torch.arange(before + longest), torch.arange(longest).unsqueeze(1)
    padding = before - (prefix[:1] if bool((prefix == before).all()) else prefix)
    mask = (key >= padding.unsqueeze(1)) & (key <= before + query)
    return Block(
        own.flatten().to(device),
        torch.cat([shared, own], dim=1).flatten().to(device),
        mask.unsqueeze(1).to(device),
        len(members),
    )
