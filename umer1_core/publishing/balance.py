"""A balanced selection for reinforcement learning: even over modalities, then data sets, then their sources.

UME-R1 appendix D: roughly equal numbers from each modality, and from each data set inside a modality; pairs outside
the cold-start set first. Pairs come in whole blocks of one source, the batches of training. Guarantees: the numbers
depend on what is available and the seed alone, and are as even as whole blocks allow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from umer1_core.pairs import draw_priority

_FULL = 0.9  # of the pairs that could be taken, those that whole blocks must hold
_LEVELS = 3


@dataclass(frozen=True, slots=True)
class Group:
    """How many pairs a source offers: those outside the cold-start set, and the others.

    unranked, outside_band: pairs that it does not offer where a rank is asked for (Publishing.rl_ranks).
    """

    modality: str
    source: str
    preferred: int
    others: int
    unranked: int = 0
    outside_band: int = 0

    @property
    def available(self) -> int:
        return self.preferred + self.others

    @property
    def dataset(self) -> str:
        """VisRAG's sources are one data set beside ViDoRe; every other source is one of its own."""
        return "visrag" if self.source.startswith("visrag/") else self.source

    @property
    def path(self) -> tuple[str, str, str]:
        return self.modality, self.dataset, self.source


@dataclass(frozen=True, slots=True)
class Selection:
    """`taken` and `asked` (the even share, were nothing short): pairs by (modality, data set, source).

    block: pairs in one block, the asked size or less.
    """

    block: int
    taken: dict[tuple[str, str, str], int]
    asked: dict[tuple[str, str, str], int]


def balance(size: int, block: int, groups: Sequence[Group], seed: int) -> Selection:
    """At most `size` pairs in blocks of `block`, or of half, a quarter, … as many where that is too coarse.

    Too coarse: a source that could fill a block would get none, or the blocks hold less than nine tenths of the pairs
    that could be taken.
    """
    while True:
        taken = _in_blocks(size, block, groups, seed)
        if block == 1 or not _coarse(size, block, groups, taken):
            asked = _fill(size // block, {group.path: size // block for group in groups}, seed)
            return Selection(block, taken, {path: count * block for path, count in asked.items()})
        block //= 2


def fill_evenly(size: int, capacities: Mapping[str, int], seed: int) -> dict[str, int]:
    """Water-filling: the same for all, except what has less to give. What cannot be divided goes by seeded order."""
    left = min(size, sum(capacities.values()))
    taken = dict.fromkeys(capacities, 0)
    open_names = sorted(capacities, key=lambda name: capacities[name])
    while open_names and capacities[open_names[0]] <= left // len(open_names):
        name = open_names.pop(0)
        taken[name] = capacities[name]
        left -= capacities[name]
    open_names.sort(key=lambda name: draw_priority(seed, name))
    for place, name in enumerate(open_names):
        taken[name] = left // len(open_names) + (place < left % len(open_names))
    return taken


def rl_table(groups: Sequence[Group], selection: Selection) -> list[dict[str, str | int]]:
    """A row for each source, by modality, data set and source: what was asked of it, and what it could give."""
    return [_line(group, selection) for group in sorted(groups, key=lambda group: group.path)]


def _line(group: Group, selection: Selection) -> dict[str, str | int]:
    asked, taken = selection.asked[group.path], selection.taken[group.path]
    return {
        "modality": group.modality,
        "dataset": group.dataset,
        "source": group.source,
        "asked": asked,
        "available": group.available,
        "outside_sft": group.preferred,
        "taken": taken,
        "taken_outside_sft": min(group.preferred, taken),
        "short_of": max(0, asked - taken),
        "unranked": group.unranked,
        "outside_band": group.outside_band,
    }


def _in_blocks(size: int, block: int, groups: Sequence[Group], seed: int) -> dict[tuple[str, str, str], int]:
    filled = _fill(size // block, {group.path: group.available // block for group in groups}, seed)
    return {path: count * block for path, count in filled.items()}


def _coarse(size: int, block: int, groups: Sequence[Group], taken: Mapping[tuple[str, str, str], int]) -> bool:
    left_out = any(not taken[group.path] for group in groups if group.available >= block)
    return left_out or sum(taken.values()) < _FULL * min(size, sum(group.available for group in groups))


def _fill(
    size: int, capacities: Mapping[tuple[str, str, str], int], seed: int, level: int = 0
) -> dict[tuple[str, str, str], int]:
    """Water-filling level by level: what a modality gets is filled into its data sets, and so on."""
    by_name: dict[str, dict[tuple[str, str, str], int]] = defaultdict(dict)
    for path, capacity in capacities.items():
        by_name[path[level]][path] = capacity
    shares = fill_evenly(size, {name: sum(part.values()) for name, part in by_name.items()}, seed)
    if level == _LEVELS - 1:
        return {path: shares[path[level]] for path in capacities}
    return {
        path: count
        for name, part in by_name.items()
        for path, count in _fill(shares[name], part, seed, level + 1).items()
    }
