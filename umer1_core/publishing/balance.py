"""A balanced selection for reinforcement learning: even over modalities, then over the sources inside each.

UME-R1 appendix D: roughly equal numbers from each modality, and from each data set inside a modality; pairs outside
the cold-start set first. Guarantees: exactly min(size, available) pairs, as even as what is available allows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from umer1_core.pairs import draw_priority


@dataclass(frozen=True, slots=True)
class Group:
    """How many pairs a source offers: those outside the cold-start set, and the others."""

    modality: str
    source: str
    preferred: int
    others: int

    @property
    def available(self) -> int:
        return self.preferred + self.others


def balance(size: int, groups: Sequence[Group], seed: int) -> dict[tuple[str, str], int]:
    """How many pairs to take of each (modality, source). Of each, the preferred are taken first (`split`)."""
    modalities: dict[str, dict[str, int]] = defaultdict(dict)
    for group in groups:
        modalities[group.modality][group.source] = group.available
    shares = fill_evenly(size, {name: sum(sources.values()) for name, sources in modalities.items()}, seed)
    return {
        (modality, source): count
        for modality, sources in modalities.items()
        for source, count in fill_evenly(shares[modality], sources, seed).items()
    }


def split(group: Group, count: int) -> tuple[int, int]:
    """How many of `count` are preferred ones, and how many others."""
    preferred = min(group.preferred, count)
    return preferred, count - preferred


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
