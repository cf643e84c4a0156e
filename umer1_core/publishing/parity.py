"""Our funnel beside the published one: drawn and kept pairs by source (counts in umer1_core.upstream).

Guarantees: only sources with published counts stand here, VisRAG's together as they were published; a difference is
given only where ours are of the published size, since the kept share of a few pairs says little about it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from umer1_core.publishing.funnel import FunnelRow
from umer1_core.upstream import PUBLISHED, Published, published_name

_LEAST = 0.5  # of the published pairs, ours that make a share comparable


@dataclass(frozen=True, slots=True)
class ParityRow:
    """One source, or all together. `difference`: our kept share less the published one, in points, or None."""

    source: str
    drawn: int
    kept: int
    rows: int
    sampled: int
    released: int
    comparable: bool

    @property
    def kept_share(self) -> float:
        return self.kept / self.drawn if self.drawn else 0.0

    @property
    def published_share(self) -> float:
        return self.released / self.sampled

    @property
    def difference(self) -> float | None:
        return 100 * (self.kept_share - self.published_share) if self.comparable else None


def parity(funnel_rows: Sequence[FunnelRow], miniature: bool = False) -> list[ParityRow]:
    """In the published order, with a last row over all of them; empty where no source has published counts.

    miniature: its sources have the upstream names only, so nothing is comparable.
    """
    drawn: dict[str, int] = defaultdict(int)
    kept: dict[str, int] = defaultdict(int)
    for row in funnel_rows:
        drawn[published_name(row.source)] += row.pairs
        kept[published_name(row.source)] += row.kept
    found = [
        _row(published, drawn[source], kept[source], miniature)
        for source, published in PUBLISHED.items()
        if drawn[source]
    ]
    return [*found, _all(found)] if found else []


def _row(published: Published, drawn: int, kept: int, miniature: bool) -> ParityRow:
    comparable = not miniature and drawn >= _LEAST * published.sampled
    counts = (published.rows, published.sampled, published.released)
    return ParityRow(published.source, drawn, kept, *counts, comparable)


def _all(found: Sequence[ParityRow]) -> ParityRow:
    return ParityRow(
        "all of these",
        sum(row.drawn for row in found),
        sum(row.kept for row in found),
        sum(row.rows for row in found),
        sum(row.sampled for row in found),
        sum(row.released for row in found),
        all(row.comparable for row in found),
    )
