"""Which reader a source of the recipe has: by its kind, how its units are listed and how one of them is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.sources import Source
from umer1_core.errors import SourceError
from umer1_core.sampling.dataset import Dataset, list_dataset
from umer1_core.sampling.llava_hound import list_llava_hound, open_llava_hound
from umer1_core.sampling.mmeb import MmebSubset, list_mmeb
from umer1_core.sampling.own import Own, list_own
from umer1_core.sampling.places import place
from umer1_core.sampling.released import Released, list_released
from umer1_core.sampling.rows import Layout, SourceSpec
from umer1_core.sampling.vidore import list_vidore, vidore_layout
from umer1_core.sampling.visrag import list_visrag, visrag_layout


@dataclass(frozen=True)
class Reader:
    """list: the units of a source, or SourceError for what is missing. open: one of them, by its name in the source."""

    list: Callable[[Any], list[SourceSpec]]
    open: Callable[[Any, str], Layout]


READERS: dict[str, Reader] = {
    "mmeb": Reader(list_mmeb, lambda config, unit: MmebSubset(place(config.root), unit, config.split)),
    "llava_hound": Reader(list_llava_hound, open_llava_hound),
    "vidore": Reader(list_vidore, lambda config, unit: vidore_layout(place(config.root).uri)),
    "visrag": Reader(list_visrag, lambda config, unit: visrag_layout(place(config.root).uri)),
    "own": Reader(list_own, lambda config, unit: Own(config)),
    "dataset": Reader(list_dataset, lambda config, unit: Dataset(config)),
    "released": Reader(list_released, Released),
}


def list_sources(sources: Sequence[Source]) -> list[SourceSpec]:
    """Every readable unit of the recipe's sources. Raises SourceError for what is missing or named twice."""
    specs = [spec for source in sources for spec in READERS[source.kind].list(source)]
    for name, times in Counter(spec.name for spec in specs).items():
        if times > 1:
            raise SourceError(f"The source {name} stands {times} times in `sources`.", "Keep one of them.")
    return specs


def open_layout(spec: SourceSpec) -> Layout:
    """The reader of a unit."""
    return READERS[spec.config.kind].open(spec.config, spec.unit)
