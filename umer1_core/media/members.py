"""What an archive holds: names, places and sizes as Arrow columns, found by binary search.

A member takes 46 bytes beside its name; a dictionary of tuples would take some 250.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# `position`: where the member's bytes start (of a zip: its local header; inside gzip: in the unpacked stream).
# `packed`: bytes they take there; `method` and `crc` are the zip's, method -1 is an encrypted member.
SCHEMA = pa.schema(
    [
        ("name", pa.large_string()),
        ("position", pa.int64()),
        ("size", pa.int64()),
        ("packed", pa.int64()),
        ("method", pa.int16()),
        ("crc", pa.uint32()),
    ]
)
Row = tuple[str, int, int, int, int, int]
_BATCH = 65_536


@dataclass(frozen=True, slots=True)
class Member:
    """A row of SCHEMA."""

    name: str
    position: int
    size: int
    packed: int
    method: int
    crc: int


class Members(Mapping[str, tuple[int, int]]):
    """Of every member its position and size, in stored order; of members of one name the last, as tar has it."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._names = table["name"].combine_chunks()
        self._order = pc.sort_indices(self._names).to_numpy()

    def __getitem__(self, name: str) -> tuple[int, int]:
        member = self.find(name)
        return member.position, member.size

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self._names), _BATCH):
            yield from self._names.slice(start, _BATCH).to_pylist()

    def __len__(self) -> int:
        return len(self._names)

    def find(self, name: str) -> Member:
        """Raises KeyError."""
        place = bisect_right(self._order, name, key=lambda row: self._names[int(row)].as_py()) - 1  # type: ignore[call-overload]
        row = int(self._order[place]) if place >= 0 else -1
        if row < 0 or self._names[row].as_py() != name:
            raise KeyError(name)
        return Member(**self._table.slice(row, 1).to_pylist()[0])


def table_of(rows: Iterator[Row]) -> pa.Table:
    """Rows in stored order as a table; of equal names only the last stays."""
    batches: list[pa.RecordBatch] = []
    columns: list[list[object]] = [[] for _ in SCHEMA]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
        if len(columns[0]) == _BATCH:
            batches.append(pa.record_batch(columns, schema=SCHEMA))
            columns = [[] for _ in SCHEMA]
    batches.append(pa.record_batch(columns, schema=SCHEMA))
    return _last_of_each(pa.Table.from_batches(batches).combine_chunks())


def _last_of_each(table: pa.Table) -> pa.Table:
    names = table["name"].combine_chunks()
    order = pc.sort_indices(names)  # stable: of equal names the last is stored last
    ordered = names.take(order)
    if len(names) < 2 or not pc.any(same := pc.equal(ordered[:-1], ordered[1:])).as_py():
        return table
    replaced = order.to_numpy()[:-1][same.to_numpy(zero_copy_only=False)]
    return table.take(np.setdiff1d(np.arange(len(names)), replaced))
