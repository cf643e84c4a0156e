"""A shard as validation reads it: its bytes once, compared with its entry, and its columns one by one from memory.

Guarantees: a shard whose bytes are not those its entry names is None, not an exception; a column is decoded when it is
asked for; columns that a shard of an earlier schema version lacks have the value they stood for, and count as present.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from schemas.tables import ADDED, SCHEMA_VERSION, TABLES
from umer1_core.store import ShardEntry, Store

# Whether a nested cell is there is told by any one of its leaves: the narrowest is read.
_NARROWEST = {
    "query": "query.media.list.element.kind",
    "target": "target.media.list.element.kind",
    "media": "media.list.element.kind",
    "query_media": "query_media.list.element.kind",
    "target_media": "target_media.list.element.kind",
    "negatives": "negatives.list.element.media.list.element.kind",
}


class Shard:
    """An intact shard. `rows` are those in the file."""

    def __init__(self, table: str, data: bytes) -> None:
        self.table = table
        self._file = pq.ParquetFile(pa.BufferReader(data))
        self._names = set(self._file.schema_arrow.names)
        self._columns: dict[str, pa.ChunkedArray] = {}
        self.rows = int(self._file.metadata.num_rows)
        version = (self._file.schema_arrow.metadata or {}).get(b"umer1.schema_version", b"").decode()
        self.current = version == SCHEMA_VERSION

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        """A column in today's schema; decoded once, kept until `forget`."""
        if name not in self._columns:
            self._columns[name] = self._read(name)
        return self._columns[name]

    def forget(self, *names: str) -> None:
        for name in names:
            self._columns.pop(name, None)

    def nulls(self, name: str) -> int:
        """Rows without a value: all where a shard of today's schema lacks the column, none where an older one does."""
        if name not in self._names:
            return self.rows if self.current else 0
        if name in self._columns:
            return int(self._columns[name].null_count)
        counted = self._counted_nulls(name)
        if counted is not None:
            return counted
        return int(self._file.read(columns=[_NARROWEST.get(name, name)])[name].null_count)

    def has(self, name: str) -> bool:
        return name in self._names

    def _read(self, name: str) -> pa.ChunkedArray:
        kind = TABLES[self.table].field(name).type
        added: Any = ADDED.get(self.table, {}).get(name)
        if name not in self._names:
            return pa.chunked_array([pa.array([added] * self.rows, kind)])
        column = self._file.read(columns=[name])[name]
        if not pa.types.is_nested(kind):
            column = column.cast(kind)
        return column if added is None else column.fill_null(added)

    def _counted_nulls(self, name: str) -> int | None:
        """From the file's own statistics, where the column is flat and has them."""
        if pa.types.is_nested(self._file.schema_arrow.field(name).type):
            return None
        metadata = self._file.metadata
        place = next(i for i in range(metadata.num_columns) if metadata.schema.column(i).path == name)
        total = 0
        for group in range(metadata.num_row_groups):
            statistics = metadata.row_group(group).column(place).statistics
            if statistics is None or not statistics.has_null_count:
                return None
            total += int(statistics.null_count)
        return total


def open_shard(store: Store, entry: ShardEntry) -> Shard | None:
    """The shard, or None when its bytes are not those its manifest entry names."""
    name = store.shard_name(entry.table, entry.shard)
    data = store.read_bytes(name) if store.exists(name) else b""
    if blake3(data).hexdigest() != entry.checksum:
        return None
    return Shard(entry.table, data)
