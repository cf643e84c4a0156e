"""The table `sides`: every distinct query and target once, in an order that mixes the sources.

Guarantees: sides with the same first image or clip are neighbours, so that a server meets it once while it is cached;
`uses` counts the places a side serves; its source is that of its first use (smallest pair_id, query before target); the
order depends on the seed and the sides alone. Negatives are not annotated and not listed. Only keys are sorted; texts
and media are read a window of shards at a time.
"""

from __future__ import annotations

from umer1_core.query import chunks, connect, rows, scan
from umer1_core.shards import finished_table, inputs_hash, write_table
from umer1_core.store import ShardEntry, Store

SIDES_ORDER = "by-media/1"  # what a shard holds depends on it, as on the seed

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
_SIDES = """
SELECT uses.side_key, source, modality, uses, text, media
FROM uses JOIN (
    SELECT pair_id || '0' AS place, source, modality, query.text AS text, query.media AS media FROM pairs
    UNION ALL SELECT pair_id || '1', source, modality, target.text, target.media FROM pairs
) USING (place)
WHERE position >= ? AND position < ?
ORDER BY position
"""


def index_sides(store: Store, shard_rows: int, seed: int, fingerprint: str = "") -> list[ShardEntry]:
    """Write the sides of all pairs, each once, as shards of `shard_rows`."""
    inputs = inputs_hash(store, ["pairs"])
    if done := finished_table(store, "sides", fingerprint, inputs):
        return done
    with connect() as connection:
        scan(connection, store, "pairs", _COLUMNS)
        connection.execute(_USES, [f"{seed}:"])
        count = int(rows(connection, "SELECT count(*) AS n FROM uses")[0]["n"])
        parts = chunks(connection, _SIDES, count, shard_rows)
        return write_table(store, "sides", parts, -(-count // shard_rows), fingerprint, inputs)
