"""The `cold_start` table as batches of pairs: same-source blocks, seeded, resumable.

Guarantees: the batch of a step depends on (data set, seed, step) alone, so a resumed training sees what one that ran
through would have; an epoch visits a row at most once and leaves out only its last, incomplete batch; no more than a
window of shards is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from umer1_core.errors import ValidationFailed
from umer1_core.store import Store, content_hash

_WINDOW_SHARDS = 8

Place = tuple[int, int]


class ColdStart:
    """Rows of a store's `cold_start` table by (shard, row)."""

    def __init__(self, store: Store) -> None:
        self._store = store
        entries = store.entries("cold_start")
        self.data_hash = content_hash(entries)
        self._names = [entry.shard for entry in entries if entry.rows]
        if not self._names:
            raise ValidationFailed(f"{store.root} has no rows to train on.", "Build and validate the data set first.")
        self._sources = [self._column(name) for name in self._names]
        self._shard = lru_cache(maxsize=_WINDOW_SHARDS + 1)(self._read)

    def __len__(self) -> int:
        return sum(map(len, self._sources))

    def row(self, place: Place) -> dict[str, Any]:
        shard, index = place
        return self._shard(shard).slice(index, 1).to_pylist()[0]

    def texts(self) -> Iterator[str]:
        """Every prompt and response."""
        columns = ["query_prompt", "query_response", "target_prompt", "target_response"]
        for row in self._store.iterate("cold_start", columns):
            yield from row.values()

    def epoch(self, batch_pairs: int, block_pairs: int, seed: int, number: int) -> list[list[Place]]:
        """The batches of an epoch."""
        rng = np.random.default_rng([seed, number])
        order = rng.permutation(len(self._sources))
        stream: list[Place] = []
        for first in range(0, len(order), _WINDOW_SHARDS):
            window = [int(shard) for shard in order[first : first + _WINDOW_SHARDS]]
            for block in same_source_blocks({s: self._sources[s] for s in window}, block_pairs, rng):
                stream += block
        size = min(batch_pairs, len(stream))
        return [stream[i : i + size] for i in range(0, len(stream) - size + 1, size)]

    def _column(self, name: str) -> np.ndarray:
        return self._store.read_shard("cold_start", name, ["source"])["source"].to_numpy()

    def _read(self, shard: int) -> pa.Table:
        return self._store.read_shard("cold_start", self._names[shard])


def same_source_blocks(sources: dict[int, np.ndarray], size: int, rng: np.random.Generator) -> list[list[Place]]:
    """Shuffle within each source, cut into blocks, shuffle the full blocks; short ones come last.

    sources: by shard, the source of each row.
    """
    by_source: dict[str, list[Place]] = {}
    for shard, names in sources.items():
        for index, name in enumerate(names):
            by_source.setdefault(str(name), []).append((shard, index))
    blocks: list[list[Place]] = []
    for name in sorted(by_source):
        places = [by_source[name][i] for i in rng.permutation(len(by_source[name]))]
        blocks += [places[i : i + size] for i in range(0, len(places), size)]
    mixed = [blocks[i] for i in rng.permutation(len(blocks))]
    return sorted(mixed, key=lambda block: len(block) < size)


def batch_of_step(data: ColdStart, step: int, batch_pairs: int, block_pairs: int, seed: int) -> tuple[int, list[Place]]:
    """The epoch and the places of a step's rows, steps counted from zero."""
    count = max(1, len(data) // batch_pairs)
    return step // count, _epoch(data, batch_pairs, block_pairs, seed, step // count)[step % count]


@lru_cache(maxsize=1)
def _epoch(data: ColdStart, batch_pairs: int, block_pairs: int, seed: int, number: int) -> list[list[Place]]:
    return data.epoch(batch_pairs, block_pairs, seed, number)
