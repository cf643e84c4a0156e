"""The table `sides`: every distinct query and target once, in an order that mixes the sources.

Guarantees: sides with the same first image or clip are neighbours, so that a server meets it once while it is cached;
`uses` counts the places a side serves; its source is that of its first use (smallest pair_id, query before target); the
order depends on the seed and the sides alone. Negatives are not annotated and not listed. Only keys are sorted; texts
and media are read a window of shards at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

from umer1_core.query import connect, rows, scan, scatter
from umer1_core.shards import finished_table, inputs_hash, remove_shards, write_table
from umer1_core.store import ShardEntry, Store

SIDES_ORDER = "by-media/1"  # what a shard holds depends on it, as on the seed

_PARTS = 128  # files of intermediate rows that are open at a time
_COLUMNS = ["pair_id", "source", "modality", "query_key", "target_key", "query", "target"]

_USES = """
CREATE TEMP TABLE uses AS
SELECT *, row_number() OVER (ORDER BY md5(? || coalesce(media_hash, side_key)), side_key) - 1 AS position
FROM (
    SELECT side_key, count(*)::INTEGER AS uses, min(place) AS place, min(media_hash) AS media_hash
    FROM (SELECT query_key AS side_key, pair_id || '0' AS place, query.media[1].content_hash AS media_hash FROM pairs
          UNION ALL SELECT target_key, pair_id || '1', target.media[1].content_hash FROM pairs)
    GROUP BY side_key)
"""
# The keys are what is held: the wide rows stream past them.
_SIDES = """
SELECT (position // {size})::INTEGER AS part, position, uses.side_key, source, modality, uses, text, media
FROM (
    SELECT pair_id || '0' AS place, source, modality, query.text AS text, query.media AS media FROM pairs
    UNION ALL SELECT pair_id || '1', source, modality, target.text, target.media FROM pairs
) JOIN uses USING (place)
"""


def index_sides(store: Store, shard_rows: int, seed: int, fingerprint: str = "") -> list[ShardEntry]:
    """Write the sides of all pairs, each once, as shards of `shard_rows`; of the parent's very pairs, share its own."""
    inputs = inputs_hash(store, ["pairs"])
    if done := finished_table(store, "sides", fingerprint, inputs):
        return done
    if store.parent and (theirs := finished_table(store.parent, "sides", fingerprint, inputs)):
        remove_shards(store, "sides", [entry.shard for entry in store.entries("sides")])
        return [store.adopt(store.parent, entry) for entry in theirs]
    with connect() as connection:
        scan(connection, store, "pairs", _COLUMNS)
        connection.execute(_USES, [f"{seed}:"])
        count = int(rows(connection, "SELECT count(*) AS n FROM uses")[0]["n"])
        shards = -(-count // shard_rows)
        return write_table(store, "sides", _cut(connection, shards, shard_rows), shards, fingerprint, inputs)


def _cut(connection: duckdb.DuckDBPyConnection, shards: int, shard_rows: int) -> Iterator[pa.Table]:
    """The rows of each shard in turn; the pairs are read once, by way of files that hold some shards each."""
    size = shard_rows * max(1, -(-shards // _PARTS))
    with tempfile.TemporaryDirectory(prefix="umer1-sides-") as folder:
        connection.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
        scattered = scatter(connection, _SIDES.format(size=size), Path(folder) / "sides")
        for part in range(-(-shards * shard_rows // size)):
            table = scattered.read(part).drop_columns(["position"])
            yield from (table.slice(first, shard_rows) for first in range(0, table.num_rows, shard_rows))
