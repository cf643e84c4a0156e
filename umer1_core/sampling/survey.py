"""How much a source would give, without opening its media: the rows a full run draws, and their distinct sides.

Guarantees: the rows counted are those that `sample_source` draws with the same seed and limit. Sides are told apart by
text and by where their media lie: equal media under two names count twice, so the distinct sides are an upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
from blake3 import blake3

from umer1_core.sampling.layouts import open_layout
from umer1_core.sampling.rows import RawSide, SourceSpec
from umer1_core.sampling.windows import select


@dataclass(frozen=True)
class Survey:
    """Counts of one source; `queries` and `targets` hold 64-bit hashes of the drawn rows' sides, a row each."""

    spec: SourceSpec
    read: int
    drawn: int
    queries: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True, slots=True)
class SideCount:
    """Sides of the whole recipe that count for a source in a role: where they stand first."""

    source: str
    role: str
    sides: int
    completions: int


def survey_source(spec: SourceSpec, seed: int) -> Survey:
    """Read a source's rows, not its media."""
    selection = select(open_layout(spec), spec.limit, seed)
    rows = chain.from_iterable(selection.windows)
    pairs = ((_hash(row.query, spec), _hash(row.target, spec)) for row in rows)
    hashes = np.fromiter(pairs, np.dtype((np.uint64, 2)), selection.rows)
    return Survey(spec, selection.counts.read.total(), selection.rows, hashes[:, 0], hashes[:, 1])


def count_sides(surveys: list[Survey], samples: int) -> list[SideCount]:
    """Distinct sides by source and role, each counted once, and the completions asked of them.

    samples: completions a side, as many as it has uses at most.
    """
    places = [(each.spec.name, role) for each in surveys for role in ("query", "target")]
    hashes = [part for each in surveys for part in (each.queries, each.targets)]
    place = np.repeat(np.arange(len(places)), [len(part) for part in hashes])
    everything = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
    _, first, uses = np.unique(everything, return_index=True, return_counts=True)
    sides = np.bincount(place[first], minlength=len(places))
    completions = np.bincount(place[first], np.minimum(uses, samples), minlength=len(places))
    return [SideCount(source, role, int(sides[n]), int(completions[n])) for n, (source, role) in enumerate(places)]


def _hash(side: RawSide, spec: SourceSpec) -> int:
    where = f"{spec.config.root}\x1f{side.reference}" if side.reference else ""
    return int.from_bytes(blake3(f"{side.text}\x1e{where}".encode()).digest()[:8], "big")
