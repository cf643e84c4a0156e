"""SQL over a data set's tables: DuckDB reads the finished shards where they lie.

Guarantees: a table is a view over exactly the shards that have an entry; local shards are read by DuckDB itself, other
stores through Arrow; a table without shards is an empty view; columns that shards of an earlier schema version lack
have the value they stood for. What does not fit in memory spills to a temporary folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow.fs import FSSpecHandler, PyFileSystem

from schemas.tables import ADDED, TABLES
from umer1_core.store import Store

_WINDOW_ROWS = 100_000  # read at once of a large result; each window reads the tables once


@contextmanager
def connect(threads: int = 0) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection in memory that may spill to disk; `threads` 0 means one per core."""
    with tempfile.TemporaryDirectory(prefix="umer1-sql-") as folder:
        connection = duckdb.connect(config={"temp_directory": folder, "preserve_insertion_order": "false"})
        try:
            if threads:
                connection.execute(f"SET threads = {int(threads)}")
            yield connection
        finally:
            connection.close()


def scan(connection: duckdb.DuckDBPyConnection, store: Store, table: str, columns: Sequence[str] = ()) -> None:
    """Make `table` (all or some of its columns) readable in `connection` as a view of that name."""
    names = list(columns) or TABLES[table].names
    files = store.files(table)
    added = ADDED.get(table, {})
    if files and store.local:
        shards = connection.read_parquet(files, union_by_name=bool(added))
        shards.select(*(_local(name, added, shards.columns) for name in names)).create_view(table, replace=True)
    elif files:
        filesystem = PyFileSystem(FSSpecHandler(store.fs))
        remote = ds.dataset(files, schema=TABLES[table], format="parquet", filesystem=filesystem)
        connection.register(table, remote.scanner(columns={name: _remote(name, added) for name in names}))
    else:
        connection.register(table, TABLES[table].empty_table().select(names))


def _local(name: str, added: dict[str, Any], present: Sequence[str]) -> duckdb.Expression:
    column = duckdb.ColumnExpression(name)
    if name not in added:
        return column
    meant = duckdb.ConstantExpression(added[name])
    return (duckdb.CoalesceOperator(column, meant) if name in present else meant).alias(name)


def _remote(name: str, added: dict[str, Any]) -> pc.Expression:
    return pc.coalesce(ds.field(name), pc.scalar(added[name])) if name in added else ds.field(name)


def rows(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """The result of a query that is small."""
    result = connection.execute(sql, list(parameters))
    names = [column[0] for column in result.description or []]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def chunks(connection: duckdb.DuckDBPyConnection, sql: str, count: int, size: int) -> Iterator[pa.Table]:
    """`count` wide rows in order, as tables of `size` rows and one shorter last, some shards in memory at a time.

    `sql` takes two parameters, the first `position` and the one after the last, and orders by position. Sorting
    the rows themselves would need them all in memory: DuckDB's sort does not spill wide rows well.
    """
    window = max(_WINDOW_ROWS // size, 1) * size
    for first in range(0, count, window):
        part = connection.sql(sql, params=[first, first + window]).to_arrow_table()
        yield from (part.slice(start, size) for start in range(0, part.num_rows, size))
