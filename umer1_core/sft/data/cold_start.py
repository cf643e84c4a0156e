"""The `cold_start` table for training: an index in memory, rows on demand, and a slice that is never trained on.

Guarantees: in memory are a source's number and a mark for each row (3 bytes), and row groups up to a bound in bytes.
The slice depends on (data set, seed, size) alone; no pair whose query side equals one of its query sides is trained on.
Targets may be shared: they are the candidates of a retrieval (labels of a classification, as in MMEB).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from umer1_core.backbone.collate import Row
from umer1_core.errors import ValidationFailed
from umer1_core.pairs import Side, draw_priority, side_from_record
from umer1_core.sft.data.row_groups import RowGroups
from umer1_core.store import Store, content_hash

TABLE = "cold_start"
COLUMNS = (
    "pair_id", "source", "modality", "query_key", "target_key",
    "query_prompt", "query_media", "query_response", "target_prompt", "target_media", "target_response", "negatives",
)  # fmt: skip
_CACHE_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class PairRows:
    """A pair ready for the model. negatives: prompts of sides that are known to be wrong."""

    pair_id: str
    source: str
    query: Row
    target: Row
    query_key: str
    target_key: str
    negatives: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that cannot be trained on, and why."""

    pair_id: str
    source: str
    reason: str
    detail: str


class ColdStart:
    """A store's `cold_start` table. A row is named by its number, counted over the shards in order.

    sources: names, sorted; source_codes: [rows] uint16, places in `sources`; trainable: [rows] bool; held_out: row
    numbers of the slice, smallest draw first.
    """

    def __init__(self, store: Store, held_out: int = 0, seed: int = 0, cache_bytes: int = _CACHE_BYTES) -> None:
        """Raises ValidationFailed when no row is left to train on, StorageError when a shard cannot be read."""
        self.store = store
        entries = store.entries(TABLE)
        self.data_hash = content_hash(entries)
        self.entries = [entry for entry in entries if entry.rows]
        self.sources, self.source_codes = self._index_sources()
        self.held_out = self._draw(held_out, seed)
        self.trainable = self._outside_of(self.held_out)
        if not self.trainable.any():
            raise ValidationFailed(
                f"{store.root} has no rows to train on: {len(self)} in all, {len(self.held_out)} of them held out.",
                "Build and validate a larger data set first, or hold fewer pairs out.",
            )
        self._groups = RowGroups(store, self.entries, COLUMNS, cache_bytes)

    def __len__(self) -> int:
        return len(self.source_codes)

    def rows(self, numbers: Sequence[int] | NDArray[np.integer]) -> list[dict[str, Any]]:
        """Records (COLUMNS) in the order asked for; safe in threads."""
        return self._groups.rows([int(number) for number in numbers])

    def held_out_rows(self) -> list[dict[str, Any]]:
        """The slice as records."""
        return self.rows(self.held_out)

    def texts(self) -> Iterator[str]:
        """Every prompt and response, for a tokenizer."""
        columns = ["query_prompt", "query_response", "target_prompt", "target_response"]
        for row in self.store.iterate(TABLE, columns):
            yield from row.values()

    def _column(self, name: str) -> Iterator[pa.Array]:
        for entry in self.entries:
            yield self.store.read_shard(TABLE, entry.shard, [name])[name].combine_chunks()

    def _index_sources(self) -> tuple[tuple[str, ...], NDArray[np.uint16]]:
        encoded = [column.dictionary_encode() for column in self._column("source")]
        names = tuple(sorted({name for part in encoded for name in part.dictionary.to_pylist()}))
        code_of = {name: code for code, name in enumerate(names)}
        codes = [np.zeros(0, np.uint16)]
        for part in encoded:
            lookup = np.array([code_of[name] for name in part.dictionary.to_pylist()], np.uint16)
            codes.append(lookup[part.indices.to_numpy()])
        return names, np.concatenate(codes)

    def _draw(self, count: int, seed: int) -> NDArray[np.int64]:
        """The rows with the smallest draw priority."""
        if not count or not len(self):
            return np.zeros(0, np.int64)
        priorities = np.concatenate([
            np.array([draw_priority(seed, name) for name in column.to_pylist()], np.uint64)
            for column in self._column("pair_id")
        ])  # fmt: skip
        smallest = np.argpartition(priorities, count)[:count] if count < len(priorities) else np.arange(len(priorities))
        return smallest[np.argsort(priorities[smallest], kind="stable")].astype(np.int64)

    def _outside_of(self, held_out: NDArray[np.int64]) -> NDArray[np.bool_]:
        """True for rows whose query side is none of the slice's."""
        if not len(held_out):
            return np.ones(len(self), np.bool_)
        keys = pa.chunked_array(list(self._column("query_key")))
        shown = pc.is_in(keys, value_set=keys.take(held_out).combine_chunks())
        return ~shown.to_numpy()


def negative_sides(record: dict[str, Any], most: int) -> list[Side]:
    """A row's first hard negatives: other than its own sides by content, each once."""
    found: dict[str, Side] = {}
    for side in map(side_from_record, (record.get("negatives") or ()) if most else ()):
        if side.key not in (record["query_key"], record["target_key"]):
            found.setdefault(side.key, side)
    return list(found.values())[:most]
