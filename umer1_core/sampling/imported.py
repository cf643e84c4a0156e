"""Responses that came with released data, kept as annotations of the sides they belong to.

They stand in a store of their own, `<root>/imported`, with the annotator `imported:<file>`: who plans the annotation
takes over what it needs. Guarantees: `sample` counts a side's responses of one source in the order of its rows; what is
held is one shard, and a number for each distinct side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from umer1_core.pairs import Pair
from umer1_core.sampling.rows import RawRow
from umer1_core.shards import remove_shards
from umer1_core.store import Store

SHARD_ROWS = 8_192


class ImportedResponses:
    """Writes the responses of one unit as shards `<slug>-00000`, …; `shards` of them when it is closed."""

    def __init__(self, store: Store, slug: str, file: str, fingerprint: str) -> None:
        self._store, self._slug, self._fingerprint = imported_store(store), slug, fingerprint
        self._annotator = f"imported:{file.rpartition('/')[2]}"
        self._waiting: list[dict[str, Any]] = []
        self._samples: Counter[int] = Counter()
        self.shards = self.rows = 0
        remove_shards(self._store, "annotations", written_shards(self._store, slug))

    def add(self, row: RawRow, pair: Pair) -> None:
        """The responses of a pair's sides; a side without one gets none."""
        for raw, key in ((row.query, pair.query.key), (row.target, pair.target.key)):
            if raw.response:
                self._waiting.append(self._record(key, pair.source, raw.response))
            if len(self._waiting) == SHARD_ROWS:
                self._flush()

    def close(self) -> None:
        if self._waiting:
            self._flush()

    def _record(self, side_key: str, source: str, completion: str) -> dict[str, Any]:
        number = int(side_key[:16], 16)
        sample = self._samples[number]
        self._samples[number] += 1
        return {
            "side_key": side_key,
            "sample": sample,
            "source": source,
            "completion": completion,
            "finish_reason": "stop",
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "attempts": 0,
            "round": 0,
            "seconds": 0.0,
            "annotator": self._annotator,
            "reason": "",
            "error": "",
        }

    def _flush(self) -> None:
        shard = f"{self._slug}-{self.shards:05d}"
        self._store.write_shard("annotations", shard, self._waiting, self._fingerprint)
        self.rows += len(self._waiting)
        self.shards += 1
        self._waiting = []


def imported_store(store: Store) -> Store:
    """Where the responses that came with a data set's sources stand."""
    return Store(f"{store.root}/imported")


def written_shards(imported: Store, slug: str) -> Sequence[str]:
    """Told by name, so that a source does not read entries that others are writing."""
    folder = imported.at("entries/annotations")
    if not imported.fs.exists(folder):
        return []
    names = (path.rpartition("/")[2] for path in imported.fs.find(folder))
    return sorted(
        name.removesuffix(".json")
        for name in names
        if name.startswith(f"{slug}-") and name[len(slug) + 1 : -5].isdecimal() and name.endswith(".json")
    )
