"""SQL over a data set's tables: DuckDB reads the finished shards where they lie.

Guarantees: a table is a view over exactly the shards that have an entry; local shards are read by DuckDB itself, other
stores through Arrow; a table without shards is an empty view; columns that shards of an earlier schema version lack
have the value they stood for, or are null. What does not fit in memory spills to a temporary folder (TMPDIR).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow.fs import FSSpecHandler, PyFileSystem

from schemas.tables import ADDED, TABLES
from umer1_core.store import Store

_MEMORY = "1GB"  # keys of 3.5 M sides fit; a process that publishes stays under 2 GB with what Arrow holds beside it
_BATCH_ROWS = 8_192  # wide rows on their way to the files of `scatter`


@contextmanager
def connect(threads: int = 0, memory: str = _MEMORY) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection in memory that spills to disk beyond `memory`; `threads` 0 means one per core."""
    with tempfile.TemporaryDirectory(prefix="umer1-sql-") as folder:
        settings: dict[str, Any] = {"temp_directory": folder, "preserve_insertion_order": "false"}
        connection = duckdb.connect(config=settings | {"memory_limit": memory})
        try:
            if threads:
                connection.execute(f"SET threads = {int(threads)}")
            yield connection
        finally:
            connection.close()


def scan(
    connection: duckdb.DuckDBPyConnection, store: Store, table: str, columns: Sequence[str] = (), name: str = ""
) -> None:
    """Make `table` (all or some of its columns) readable in `connection` as a view of that name, or of `name`."""
    names, view = list(columns) or TABLES[table].names, name or table
    files = store.files(table)
    added = ADDED.get(table, {})
    if files and store.local:
        shards = connection.read_parquet(files, union_by_name=True)
        empty = connection.from_arrow(TABLES[table].empty_table())
        types = dict(zip(empty.columns, empty.types, strict=True))
        chosen = (_local(column, added, shards.columns, types[column]) for column in names)
        shards.select(*chosen).create_view(view, replace=True)
    elif files:
        filesystem = PyFileSystem(FSSpecHandler(store.fs))
        remote = ds.dataset(files, schema=TABLES[table], format="parquet", filesystem=filesystem)
        connection.register(view, remote.scanner(columns={column: _remote(column, added) for column in names}))
    else:
        connection.register(view, TABLES[table].empty_table().select(names))


def _local(name: str, added: dict[str, Any], present: Sequence[str], kind: Any) -> duckdb.Expression:
    column = duckdb.ColumnExpression(name)
    if name not in added:
        return column if name in present else duckdb.ConstantExpression(None).cast(kind).alias(name)
    meant = duckdb.ConstantExpression(added[name])
    return (duckdb.CoalesceOperator(column, meant) if name in present else meant).alias(name)


def _remote(name: str, added: dict[str, Any]) -> pc.Expression:
    return pc.coalesce(ds.field(name), pc.scalar(added[name])) if name in added else ds.field(name)


def rows(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """The result of a query that is small."""
    result = connection.execute(sql, list(parameters))
    names = [column[0] for column in result.description or []]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


@dataclass(frozen=True, slots=True)
class Scattered:
    """The rows of a wide result, in one file a part."""

    folder: Path
    schema: pa.Schema

    def read(self, part: int) -> pa.Table:
        """The rows of a part by `position`, without the column `part`."""
        file = self.folder / f"{part}.arrow"
        if not file.exists():
            return self.schema.empty_table()
        with pa.OSFile(str(file)) as source:
            rows_of_part = pa.ipc.open_file(source).read_all()
        return rows_of_part.take(pc.sort_indices(rows_of_part, [("position", "ascending")]))


def scatter(connection: duckdb.DuckDBPyConnection, sql: str, folder: Path) -> Scattered:
    """Write a result that does not fit in memory to a file for each value of its column `part` (counted from 0).

    `sql` gives `part` and `position` beside the wide columns, in any order. It is read once, whatever the parts: the
    tables need not be read again for each of them. At most some batches of rows are in memory.
    """
    folder.mkdir(parents=True)
    reader = connection.sql(sql).to_arrow_reader(_BATCH_ROWS)
    schema = pa.schema([field for field in reader.schema if field.name != "part"])
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
    with ExitStack() as opened:
        for batch in reader:
            parts = batch.column("part").to_numpy()
            order = np.argsort(parts, kind="stable")
            sorted_batch, found = batch.select(schema.names).take(pa.array(order)), parts[order]
            starts = np.flatnonzero(np.r_[True, found[1:] != found[:-1]]) if len(found) else np.empty(0, np.int64)
            for start, end in zip(starts, [*starts[1:], len(found)], strict=True):
                part = int(found[start])
                if part not in writers:
                    file = pa.ipc.new_file(str(folder / f"{part}.arrow"), schema, options=options)
                    writers[part] = opened.enter_context(file)
                writers[part].write_batch(sorted_batch.slice(start, end - start))
    return Scattered(folder, schema)
