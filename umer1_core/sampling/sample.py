"""Sources of a recipe become the tables `pairs` and `rejections`.

Guarantees: every row read is a pair, a rejection with its reason, or counted as not drawn. The rejections shard of a
source is written last and marks it as done; an unfinished source is drawn again, a finished one is left as it is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from schemas.sources import MediaRules
from schemas.tables import SCHEMA_VERSION
from umer1_core.pairs import Modality, Pair, pair_record
from umer1_core.sampling.finished import finished_source, inherit_source, pair_shards, rows_state, source_slug
from umer1_core.sampling.imported import ImportedResponses
from umer1_core.sampling.layouts import list_sources, open_layout
from umer1_core.sampling.opening import Opened, open_rows
from umer1_core.sampling.rows import Layout, RawRow, Refused, SourceSpec
from umer1_core.sampling.sides import index_sides
from umer1_core.sampling.windows import Selection, select
from umer1_core.shards import remove_shards
from umer1_core.store import ShardEntry, Store
from umer1_core.store import fingerprint as hashed

__all__ = ["SourceSpec", "index_sides", "list_sources", "open_layout", "sample_source", "source_fingerprint"]


def source_fingerprint(spec: SourceSpec, seed: int, rules: MediaRules) -> str:
    """What the tables of a source are made from: those made from anything else are drawn anew."""
    return hashed(repr(spec), seed, rules.model_dump(), SCHEMA_VERSION)


def sample_source(
    spec: SourceSpec,
    seed: int,
    store: Store,
    shard_rows: int = 10_000,
    fingerprint: str = "",
    rules: MediaRules = MediaRules(),
) -> list[ShardEntry]:
    """Draw a source, open the media of the drawn rows, and write its shards. The last entry is the rejections'.

    What the parent version drew of the same files is shared with it. Responses that came with the rows go to
    `<store>/imported` (umer1_core.sampling.imported).
    """
    slug = source_slug(spec.name)
    layout = open_layout(spec)
    if finished := finished_source(store, slug, fingerprint) or inherit_source(store, slug, fingerprint, layout):
        return finished
    remove_shards(store, "rejections", [slug])
    remove_shards(store, "pairs", [entry.shard for entry in pair_shards(store, slug)])
    state = rows_state(layout)
    selection = select(layout, spec.limit, seed)
    responses = ImportedResponses(store, slug, spec.unit, fingerprint)
    tally = _Tally(spec, selection)
    entries: list[ShardEntry] = []
    waiting: list[dict[str, Any]] = []
    for pair in _pairs(layout, selection, spec.modality, rules, tally, responses):
        waiting.append(pair_record(pair))
        if len(waiting) == shard_rows:
            entries.append(store.write_shard("pairs", f"{slug}-{len(entries):05d}", waiting, fingerprint))
            waiting = []
    if waiting:
        entries.append(store.write_shard("pairs", f"{slug}-{len(entries):05d}", waiting, fingerprint))
    responses.close()
    metrics = tally.metrics(len(entries)) | {"imported": responses.rows, "imported_shards": responses.shards}
    metrics["files"] = state
    rows = (asdict(row) for row in tally.refused)
    return [*entries, store.write_shard("rejections", slug, rows, fingerprint, **metrics)]


def _pairs(
    layout: Layout,
    selection: Selection,
    modality: Modality,
    rules: MediaRules,
    tally: _Tally,
    responses: ImportedResponses,
) -> Iterator[Pair]:
    """The pairs in the order in which their media were opened; everything is counted, responses are kept."""
    for window in selection.windows:
        opened: list[tuple[RawRow, Opened]] = []
        for result in open_rows(layout, window, modality, rules):
            tally.add(result)
            if isinstance(result, Opened):
                yield result.pair
                row = window[result.number]
                if row.query.response or row.target.response:
                    opened.append((row, result))
        for row, result in sorted(opened, key=lambda each: each[1].number):
            responses.add(row, result.pair)


class _Tally:
    """Counts of one source, also by the source its rows are called (VisRAG has several)."""

    def __init__(self, spec: SourceSpec, selection: Selection) -> None:
        self.spec, self.counts, self.drawn = spec, selection.counts, selection.rows
        self.refused = list(selection.counts.refused)
        self.pairs: Counter[str] = Counter()
        self.modality: dict[str, Modality] = {}
        self.negatives_dropped = 0

    def add(self, result: Opened | Refused) -> None:
        if isinstance(result, Refused):
            self.refused.append(result)
        else:
            self.pairs[result.pair.source] += 1
            self.modality.setdefault(result.pair.source, result.pair.modality)
            self.negatives_dropped += result.negatives_dropped

    def metrics(self, shards: int) -> dict[str, Any]:
        reasons: dict[str, Counter[str]] = defaultdict(Counter)
        for row in self.refused:
            reasons[row.source][row.reason] += 1
        names = sorted(self.counts.read) or [self.spec.name]
        return {
            "source": self.spec.name,
            "modality": self.spec.modality,
            "shards": shards,
            "drawn": self.drawn,
            "negatives_dropped": self.negatives_dropped,
            "noted": dict(sorted(self.counts.noted.items())),
            **self._counts(names, sum(reasons.values(), Counter())),
            "by_source": {
                name: self._counts([name], reasons[name]) | {"modality": self.modality.get(name, self.spec.modality)}
                for name in names
            },
        }

    def _counts(self, names: Iterable[str], reasons: Counter[str]) -> dict[str, Any]:
        names = list(names)
        return {
            "read": sum(self.counts.read[name] for name in names),
            "not_drawn": sum(self.counts.not_drawn[name] for name in names),
            "pairs": sum(self.pairs[name] for name in names),
            "rejected": dict(sorted(reasons.items())),
        }
