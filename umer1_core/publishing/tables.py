"""The tables people train on: `cold_start` (both sides kept) and `rl` (balanced, outside the cold start first).

Guarantees: a pair is published only if both its sides have a kept sample, and takes one of each; the order is that of a
hash of pair_id, whatever order shards were made in; rows are read some shards at a time; a table made with the same
fingerprint from the same shards is left as it is, and shards of another making are removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from schemas.tables import COLD_START, RL
from umer1_core.publishing.balance import Group, balance
from umer1_core.publishing.judged import choose_samples, judge_pairs
from umer1_core.query import chunks, connect, rows, scan
from umer1_core.shards import finished_table, inputs_hash, write_table
from umer1_core.store import ShardEntry, Store
from umer1_core.template import training_prompt, training_response

_VERDICTS = ["side_key", "sample", "kept", "reasoning", "summary"]

_KEPT = """
CREATE TEMP TABLE kept AS
SELECT pair_id, coalesce(q.sample, 0) AS query_sample, coalesce(t.sample, 0) AS target_sample,
       row_number() OVER (ORDER BY md5(pair_id), pair_id) - 1 AS position
FROM (SELECT pair_id FROM judged WHERE kept) good
LEFT JOIN (FROM choices WHERE role = 'query') q USING (pair_id)
LEFT JOIN (FROM choices WHERE role = 'target') t USING (pair_id)
"""
_COLD_START = """
SELECT pair_id, pairs.source, modality, query_key, target_key,
       query.text AS query_text, query.media AS query_media, q.reasoning AS query_reasoning, q.summary AS query_summary,
       target.text AS target_text, target.media AS target_media,
       t.reasoning AS target_reasoning, t.summary AS target_summary, negatives
FROM kept JOIN pairs USING (pair_id)
JOIN verdicts q ON q.side_key = query_key AND q.sample = query_sample
JOIN verdicts t ON t.side_key = target_key AND t.sample = target_sample
WHERE position >= ? AND position < ?
ORDER BY position
"""
_CANDIDATES = """
CREATE TEMP TABLE candidates AS
SELECT pair_id, source, modality, CASE WHEN kept THEN 'cold_start' ELSE 'rejected' END AS origin
FROM judged
WHERE modality <> 'image' OR len($1::VARCHAR[]) = 0 OR list_contains($1::VARCHAR[], source)
"""
_GROUPS = """
SELECT modality, source, count(*) FILTER (origin = 'rejected') AS preferred,
       count(*) FILTER (origin = 'cold_start') AS others
FROM candidates GROUP BY ALL ORDER BY ALL
"""
_CHOSEN = """
CREATE TEMP TABLE chosen AS
SELECT pair_id, origin, row_number() OVER (ORDER BY md5(? || pair_id), pair_id) - 1 AS position
FROM (SELECT *, row_number() OVER (
        PARTITION BY modality, source ORDER BY origin = 'cold_start', md5(? || pair_id), pair_id) AS place
      FROM candidates) ranked
JOIN quotas USING (modality, source)
WHERE place <= quota
"""
_RL = """
SELECT pair_id, source, modality, origin, query_key, target_key, query.text AS query_text, query.media AS query_media,
       target.text AS target_text, target.media AS target_media, negatives
FROM pairs JOIN chosen USING (pair_id)
WHERE position >= ? AND position < ?
ORDER BY position
"""


def publish_cold_start(store: Store, shard_rows: int, fingerprint: str = "") -> list[ShardEntry]:
    """Write the pairs whose sides both have a kept sample, ready for a trainer."""
    inputs = inputs_hash(store, ["pairs", "verdicts"])
    if done := finished_table(store, "cold_start", fingerprint, inputs):
        return done
    with connect() as connection:
        scan(connection, store, "pairs")
        scan(connection, store, "verdicts", _VERDICTS)
        judge_pairs(connection)
        choose_samples(connection)
        connection.execute(_KEPT)
        count = _count(connection, "kept")
        parts = map(_cold_start_rows, chunks(connection, _COLD_START, count, shard_rows))
        return write_table(store, "cold_start", parts, -(-count // shard_rows), fingerprint, inputs)


def publish_rl(
    store: Store, size: int, image_sources: Sequence[str], seed: int, shard_rows: int, fingerprint: str = ""
) -> list[ShardEntry]:
    """Write a balanced selection of at most `size` pairs; images only from `image_sources` where any are named."""
    inputs = inputs_hash(store, ["pairs", "verdicts"])
    if done := finished_table(store, "rl", fingerprint, inputs):
        return done
    with connect() as connection:
        scan(connection, store, "pairs")
        scan(connection, store, "verdicts", ["side_key", "kept"])
        judge_pairs(connection)
        connection.execute(_CANDIDATES, [list(image_sources)])
        _choose(connection, size, seed)
        count = _count(connection, "chosen")
        parts = map(_rl_rows, chunks(connection, _RL, count, shard_rows))
        return write_table(store, "rl", parts, -(-count // shard_rows), fingerprint, inputs)


def _choose(connection: duckdb.DuckDBPyConnection, size: int, seed: int) -> None:
    groups = [Group(**row) for row in rows(connection, _GROUPS)]
    quotas = balance(size, groups, seed)
    connection.execute("CREATE TEMP TABLE quotas (modality VARCHAR, source VARCHAR, quota BIGINT)")
    for (modality, source), quota in quotas.items():
        connection.execute("INSERT INTO quotas VALUES (?, ?, ?)", [modality, source, quota])
    connection.execute(_CHOSEN, [f"{seed}:", f"{seed}:"])


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(rows(connection, f"SELECT count(*) AS n FROM {table}")[0]["n"])


def _cold_start_rows(part: pa.Table) -> pa.Table:
    for side in ("query", "target"):
        thought, said = part.column(f"{side}_reasoning").to_pylist(), part.column(f"{side}_summary").to_pylist()
        responses = (training_response(*pair) for pair in zip(thought, said, strict=True))
        part = part.append_column(f"{side}_response", pa.array(responses, pa.string()))
    return _with_prompts(part).select(COLD_START.names)


def _rl_rows(part: pa.Table) -> pa.Table:
    return _with_prompts(part).select(RL.names)


def _with_prompts(part: pa.Table) -> pa.Table:
    for side in ("query", "target"):
        part = part.append_column(f"{side}_prompt", pa.array(_prompts(part, side), pa.string()))
    return part


def _prompts(part: pa.Table, side: str) -> Iterator[str]:
    return map(training_prompt, part.column(f"{side}_text").to_pylist())
