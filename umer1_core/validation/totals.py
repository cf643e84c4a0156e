"""Counts over whole tables: those that must agree with each other, the blocks of the RL set, and what each table holds.

DuckDB reads keys alone, as 128-bit hashes, and spills what does not fit: 3.5 M sides need some hundred megabytes.
"""

from __future__ import annotations

from typing import Any

import duckdb

from umer1_core import query
from umer1_core.store import Store

Row = dict[str, Any]

_MEMORY = "800MB"
_THREADS = 2

_IDENTITIES = {
    "every side of a pair stands once in sides": (
        "(SELECT count(DISTINCT side) FROM used), (SELECT count(*) FROM sides)"
    ),
    "the uses of the sides are two per pair": "(SELECT 2 * count(*) FROM pairs), (SELECT sum(uses) FROM sides)",
    "no pair stands twice in pairs": "(SELECT count(*) FROM pairs), (SELECT count(DISTINCT pair) FROM paired)",
    "every side is annotated": (
        "(SELECT count(*) FROM sides), (SELECT count(*) FROM (SELECT md5_number(side_key) AS side FROM sides)"
        " SEMI JOIN annotated USING (side))"
    ),
    "no sample of a side stands twice in annotations": (
        "(SELECT count(*) FROM annotations), (SELECT count(*) FROM annotated)"
    ),
    "every annotation has a verdict": (
        "(SELECT count(*) FROM annotated), (SELECT count(*) FROM judged SEMI JOIN annotated USING (side, sample))"
    ),
    "no sample of a side stands twice in verdicts": "(SELECT count(*) FROM verdicts), (SELECT count(*) FROM judged)",
    "every annotation that was asked for has its attempts": (
        "(SELECT rows FROM asked), (SELECT count(*) FROM (SELECT DISTINCT side, sample FROM tried))"
    ),
    "every attempt is of an annotation": (
        "(SELECT count(*) FROM attempts), (SELECT count(*) FROM tried SEMI JOIN annotated USING (side, sample))"
    ),
    "a pair is in cold_start when both its sides are kept, and only then": (
        "(SELECT count(*) FROM kept_pairs), (SELECT count(*) FROM cold_start)"
    ),
    "every pair of cold_start is a kept pair": (
        "(SELECT count(*) FROM cold_start), (SELECT count(*) FROM published SEMI JOIN kept_pairs USING (pair))"
    ),
    "no pair stands twice in cold_start": (
        "(SELECT count(*) FROM cold_start), (SELECT count(DISTINCT pair) FROM published)"
    ),
    "every pair of rl is a sampled pair": (
        "(SELECT count(*) FROM rl), (SELECT count(DISTINCT pair) FROM rewarded SEMI JOIN paired USING (pair))"
    ),
}
_VIEWS = """
CREATE VIEW used AS SELECT md5_number(query_key) AS side FROM pairs UNION ALL SELECT md5_number(target_key) FROM pairs;
CREATE VIEW paired AS SELECT md5_number(pair_id) AS pair, md5_number(query_key) AS query,
  md5_number(target_key) AS target FROM pairs;
CREATE VIEW tried AS SELECT md5_number(side_key) AS side, sample FROM attempts;
CREATE VIEW published AS SELECT md5_number(pair_id) AS pair FROM cold_start;
CREATE VIEW rewarded AS SELECT md5_number(pair_id) AS pair FROM rl;
CREATE TABLE annotated AS SELECT DISTINCT md5_number(side_key) AS side, sample FROM annotations;
CREATE TABLE judged AS SELECT md5_number(side_key) AS side, sample, bool_or(kept) AS kept FROM verdicts GROUP BY ALL;
CREATE VIEW kept_sides AS SELECT DISTINCT side FROM judged WHERE kept;
CREATE TABLE kept_pairs AS SELECT pair FROM paired
SEMI JOIN kept_sides AS q ON paired.query = q.side
SEMI JOIN kept_sides AS t ON paired.target = t.side;
"""
_COLUMNS = {
    "pairs": ["pair_id", "query_key", "target_key"],
    "sides": ["side_key", "uses"],
    "annotations": ["side_key", "sample"],
    "attempts": ["side_key", "sample"],
    "verdicts": ["side_key", "sample", "kept"],
    "cold_start": ["pair_id"],
    "rl": ["pair_id"],
}
# Tables of which publishing always writes a shard, and those of which a data set without rows is none.
_WRITTEN = ("pairs", "sides", "annotations", "verdicts", "cold_start", "rl")
_FILLED = ("pairs", "sides", "annotations", "verdicts")
_WITHOUT_BLOCKS = ("1", "2")  # schema versions


def dataset_metrics(store: Store) -> list[Row]:
    """The one row about the data set as a whole."""
    pairs, cold_start = _rows(store, "pairs"), _rows(store, "cold_start")
    return [
        {
            "data_set": store.root.rsplit("/", 1)[-1],
            "pairs": pairs,
            "cold_start_pairs": cold_start,
            "rl_pairs": _rows(store, "rl"),
            "kept_fraction": round(cold_start / pairs, 6) if pairs else 0.0,
        }
    ]


def table_metrics(store: Store) -> list[Row]:
    """What each table holds: without this a table that nobody wrote would have no row that could fail."""
    rows = []
    for table in _WRITTEN:
        entries = store.entries(table)
        count = sum(entry.rows for entry in entries)
        rows.append({"table": table, "shards": len(entries), "rows": count if table in _FILLED else None})
    return rows


def identities(store: Store) -> list[Row]:
    """Counts that must agree between tables, a row each: both counts and their difference."""
    with query.connect(_THREADS) as connection:
        limit_memory(connection)
        for table, columns in _COLUMNS.items():
            query.scan(connection, store, table, columns)
        connection.execute(_VIEWS)
        connection.execute("CREATE TABLE asked AS SELECT ? AS rows", [_asked(store)])
        rows = []
        for identity, counts in _IDENTITIES.items():
            left, right = (int(count or 0) for count in connection.execute(f"SELECT {counts}").fetchall()[0])
            rows.append({"identity": identity, "expected": left, "found": right, "difference": right - left})
    return rows


def rl_blocks(store: Store) -> list[Row]:
    """A row a block of the RL set: its sources, and the pairs that it lacks to the size in the manifest.

    None where the set was written before it had blocks.
    """
    manifest = store.read_json("manifest.json") or {}
    if manifest.get("schema_version") in _WITHOUT_BLOCKS:
        return []
    with query.connect(_THREADS) as connection:
        query.scan(connection, store, "rl", ["source", "block"])
        blocks = query.rows(
            connection,
            "SELECT block, count(*) AS pairs, count(DISTINCT source) AS sources FROM rl GROUP BY block ORDER BY block",
        )
    size = manifest.get("rl_block")
    return [row | {"lacking_pairs": size - row["pairs"] if size else None} for row in blocks]


def limit_memory(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(f"SET memory_limit = '{_MEMORY}'")


def _asked(store: Store) -> int:
    """Annotations not taken over from another version, of the shards that kept attempts: schema version 1 kept none."""
    recorded = {entry.shard for entry in store.entries("attempts")}
    shards = (entry for entry in store.entries("annotations") if entry.shard in recorded)
    return sum(entry.rows - int(entry.metrics.get("reused", 0)) for entry in shards)


def _rows(store: Store, table: str) -> int:
    return sum(entry.rows for entry in store.entries(table))
