"""Sources of a recipe become the tables `pairs` and `rejections`.

Guarantees: every row read is a pair, a rejection with its reason, or counted as not drawn. The rejections shard of a
source is written last and marks it as done; an unfinished source is drawn again, a finished one is left as it is.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from schemas.recipe import LlavaHoundSource, MmebSource, Source, VidoreSource
from umer1_core.errors import SourceError
from umer1_core.pairs import pair_record
from umer1_core.sampling.draw import Drawn, draw
from umer1_core.sampling.llava_hound import LlavaHound, list_llava_hound
from umer1_core.sampling.mmeb import MmebSubset, list_mmeb
from umer1_core.sampling.opening import Opened, open_rows
from umer1_core.sampling.rows import Layout, Refused, SourceSpec
from umer1_core.sampling.sides import index_sides
from umer1_core.sampling.vidore import list_vidore, vidore_layout
from umer1_core.sampling.visrag import list_visrag, visrag_layout
from umer1_core.shards import remove_shards
from umer1_core.store import ShardEntry, Store

__all__ = ["SourceSpec", "index_sides", "list_sources", "sample_source"]


def list_sources(sources: Sequence[Source]) -> list[SourceSpec]:
    """Every readable unit of the recipe's sources. Raises SourceError for what is missing or named twice."""
    specs = [spec for source in sources for spec in _list(source)]
    for name, times in Counter(spec.name for spec in specs).items():
        if times > 1:
            raise SourceError(f"The source {name} stands {times} times in `sources`.", "Keep one of them.")
    return specs


def sample_source(
    spec: SourceSpec, seed: int, store: Store, shard_rows: int = 10_000, fingerprint: str = ""
) -> list[ShardEntry]:
    """Draw a source, open the media of the drawn rows, and write its shards. The last entry is the rejections'."""
    slug = source_slug(spec.name)
    if done := store.entry("rejections", slug, fingerprint):
        shards = _pair_shards(store, slug)
        if len(shards) == done.metrics["shards"]:
            return [*shards, done]
    remove_shards(store, "rejections", [slug])
    remove_shards(store, "pairs", [entry.shard for entry in _pair_shards(store, slug)])
    layout = open_layout(spec)
    drawn = draw(layout.rows(), spec.limit, seed)
    tally = _Tally(spec, drawn)
    entries: list[ShardEntry] = []
    waiting: list[dict[str, Any]] = []
    for result in open_rows(layout, drawn.rows, spec.modality):
        tally.add(result)
        if isinstance(result, Opened):
            waiting.append(pair_record(result.pair))
        if len(waiting) == shard_rows:
            entries.append(store.write_shard("pairs", f"{slug}-{len(entries):05d}", waiting, fingerprint))
            waiting = []
    if waiting:
        entries.append(store.write_shard("pairs", f"{slug}-{len(entries):05d}", waiting, fingerprint))
    rows = (asdict(row) for row in tally.refused)
    return [*entries, store.write_shard("rejections", slug, rows, fingerprint, **tally.metrics(len(entries)))]


def open_layout(spec: SourceSpec) -> Layout:
    """The reader of a unit."""
    config = spec.config
    root = Path(config.root).expanduser().resolve()
    if isinstance(config, MmebSource):
        return MmebSubset(root, spec.unit, config.split)
    if isinstance(config, LlavaHoundSource):
        return LlavaHound(root, spec.unit, config.frames)
    return vidore_layout(str(root)) if isinstance(config, VidoreSource) else visrag_layout(str(root))


def source_slug(name: str) -> str:
    """The source's name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def _list(source: Source) -> list[SourceSpec]:
    if isinstance(source, MmebSource):
        return list_mmeb(source)
    if isinstance(source, LlavaHoundSource):
        return list_llava_hound(source)
    return list_vidore(source) if isinstance(source, VidoreSource) else list_visrag(source)


def _pair_shards(store: Store, slug: str) -> list[ShardEntry]:
    """Told by name, so that a source does not read entries that others are writing."""
    folder = store.at("entries/pairs")
    if not store.fs.exists(folder):
        return []
    name = re.compile(rf"({re.escape(slug)}-\d{{5}})\.json")
    matches = [name.fullmatch(path.rpartition("/")[2]) for path in sorted(store.fs.find(folder))]
    entries = [store.entry("pairs", match.group(1)) for match in matches if match]
    return [entry for entry in entries if entry]


class _Tally:
    """Counts of one source, also by the source its rows are called (VisRAG has several)."""

    def __init__(self, spec: SourceSpec, drawn: Drawn) -> None:
        self.spec, self.drawn = spec, drawn
        self.refused = list(drawn.refused)
        self.pairs: Counter[str] = Counter()
        self.negatives_dropped = 0

    def add(self, result: Opened | Refused) -> None:
        if isinstance(result, Refused):
            self.refused.append(result)
        else:
            self.pairs[result.pair.source] += 1
            self.negatives_dropped += result.negatives_dropped

    def metrics(self, shards: int) -> dict[str, Any]:
        reasons: dict[str, Counter[str]] = defaultdict(Counter)
        for row in self.refused:
            reasons[row.source][row.reason] += 1
        names = sorted(self.drawn.read) or [self.spec.name]
        return {
            "source": self.spec.name,
            "modality": self.spec.modality,
            "shards": shards,
            "drawn": len(self.drawn.rows),
            "negatives_dropped": self.negatives_dropped,
            **self._counts(names, sum(reasons.values(), Counter())),
            "by_source": {name: self._counts([name], reasons[name]) for name in names},
        }

    def _counts(self, names: Iterable[str], reasons: Counter[str]) -> dict[str, Any]:
        names = list(names)
        return {
            "read": sum(self.drawn.read[name] for name in names),
            "not_drawn": sum(self.drawn.not_drawn[name] for name in names),
            "pairs": sum(self.pairs[name] for name in names),
            "rejected": dict(sorted(reasons.items())),
        }
