"""Rows of a table by number, read by Parquet row group; the groups used last stay in memory, bounded in bytes.

Guarantees: never more than `limit` bytes are kept (groups being read or handed out come on top); threads that want the
same group read it once. A shard written as one row group is read as a whole for each row that is not kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from umer1_core.errors import StorageError
from umer1_core.store import ShardEntry, Store

_FOOTERS = 32  # a footer of 20 groups takes about 1 MB in memory
_Group = tuple[int, int]  # shard, row group


class RowGroups:
    """Some columns of the shards in `entries`. Row numbers count over all of them in order."""

    def __init__(self, store: Store, entries: Sequence[ShardEntry], columns: Sequence[str], limit: int) -> None:
        self._store, self._entries, self._columns, self._limit = store, entries, columns, limit
        self._firsts = np.cumsum([0, *(entry.rows for entry in entries)])
        self._kept: OrderedDict[_Group, Future[pa.Table]] = OrderedDict()
        self._lock = threading.Lock()
        self._footer = lru_cache(maxsize=_FOOTERS)(self._read_footer)
        self._starts: dict[int, np.ndarray] = {}
        self.bytes_kept = 0
        self.groups_read = 0

    def rows(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Records in the order asked for, each group looked at once. Raises StorageError for a damaged shard."""
        by_group: dict[_Group, list[tuple[int, int]]] = {}
        for position, number in enumerate(numbers):
            group, inside = self._place(int(number))
            by_group.setdefault(group, []).append((position, inside))
        records: list[dict[str, Any]] = [{}] * len(numbers)
        for group, wanted in by_group.items():
            found = self._group(group).take([inside for _, inside in wanted]).to_pylist()
            for (position, _), record in zip(wanted, found, strict=True):
                records[position] = record
        return records

    def _place(self, number: int) -> tuple[_Group, int]:
        """The group of a row, and its number in there."""
        shard = int(np.searchsorted(self._firsts, number, side="right")) - 1
        if shard not in self._starts:
            footer = self._footer(shard)
            sizes = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
            self._starts[shard] = np.cumsum([0, *sizes])
        inside = number - int(self._firsts[shard])
        group = int(np.searchsorted(self._starts[shard], inside, side="right")) - 1
        return (shard, group), inside - int(self._starts[shard][group])

    def _group(self, key: _Group) -> pa.Table:
        with self._lock:
            future = self._kept.get(key)
            if known := future is not None:
                self._kept.move_to_end(key)
            else:
                future = self._kept[key] = Future()
        if not known:
            self._fill(key, future)
        return future.result()

    def _fill(self, key: _Group, future: Future[pa.Table]) -> None:
        try:
            table = self._read(*key)
        except BaseException as error:
            with self._lock:
                del self._kept[key]
            future.set_exception(error)
            return
        with self._lock:
            future.set_result(table)
            self.bytes_kept += table.nbytes
            self.groups_read += 1
            self._evict()

    def _evict(self) -> None:
        for key, future in list(self._kept.items()):
            if self.bytes_kept <= self._limit:
                return
            if future.done():
                self.bytes_kept -= future.result().nbytes
                del self._kept[key]

    def _read(self, shard: int, group: int) -> pa.Table:
        footer = self._footer(shard)
        stored = set(footer.schema.to_arrow_schema().names)
        try:
            # Parquet asks for just the ranges it needs; reading ahead would fetch megabytes for each.
            with self._store.fs.open(self._path(shard), cache_type="none") as file:
                parquet = pq.ParquetFile(file, metadata=footer, pre_buffer=True)
                columns = [name for name in self._columns if name in stored]
                return parquet.read_row_group(group, columns=columns, use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise self._damaged(shard, error) from error

    def _read_footer(self, shard: int) -> pq.FileMetaData:
        try:
            with self._store.fs.open(self._path(shard)) as file:
                return pq.read_metadata(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise self._damaged(shard, error) from error

    def _path(self, shard: int) -> str:
        entry = self._entries[shard]
        return self._store.at(self._store.shard_name(entry.table, entry.shard))

    def _damaged(self, shard: int, error: Exception) -> StorageError:
        return StorageError(f"Shard {self._path(shard)} cannot be read: {error}.", "Publish the data set again.")
