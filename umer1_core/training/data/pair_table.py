"""A table of pairs for training: an index in memory, rows on demand.

Guarantees: in memory are a source's number for each row (2 bytes), and row groups up to a bound in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from umer1_core.store import Store, content_hash
from umer1_core.training.data.row_groups import RowGroups

_CACHE_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that cannot be trained on, and why."""

    pair_id: str
    source: str
    reason: str
    detail: str


class PairTable:
    """One of a store's tables of pairs. A row is named by its number, counted over the shards in order.

    sources: names, sorted; source_codes: [rows] uint16, places in `sources`; data_hash: of the table's content.
    """

    def __init__(self, store: Store, table: str, columns: Sequence[str], cache_bytes: int = _CACHE_BYTES) -> None:
        """Raises StorageError when a shard cannot be read."""
        self.store, self.table = store, table
        entries = store.entries(table)
        self.data_hash = content_hash(entries)
        self.entries = [entry for entry in entries if entry.rows]
        self.sources, self.source_codes = self._index_sources()
        self._groups = RowGroups(store, self.entries, columns, cache_bytes)

    def __len__(self) -> int:
        return len(self.source_codes)

    def rows(self, numbers: Sequence[int] | NDArray[np.integer]) -> list[dict[str, Any]]:
        """Records in the order asked for; safe in threads."""
        return self._groups.rows([int(number) for number in numbers])

    def column(self, name: str) -> Iterator[pa.Array]:
        """A column, one shard at a time."""
        for entry in self.entries:
            yield self.store.read_shard(self.table, entry.shard, [name])[name].combine_chunks()

    def _index_sources(self) -> tuple[tuple[str, ...], NDArray[np.uint16]]:
        encoded = [column.dictionary_encode() for column in self.column("source")]
        names = tuple(sorted({name for part in encoded for name in part.dictionary.to_pylist()}))
        code_of = {name: code for code, name in enumerate(names)}
        codes = [np.zeros(0, np.uint16)]
        for part in encoded:
            lookup = np.array([code_of[name] for name in part.dictionary.to_pylist()], np.uint16)
            codes.append(lookup[part.indices.to_numpy()])
        return names, np.concatenate(codes)
