"""The table `rl`: pairs for reinforcement learning, balanced, in blocks of one source, outside the cold start first.

Guarantees: which pairs, in which blocks and order depends on the pairs, their verdicts and the seed, not on how shards
were made; with ranks, only pairs whose rank lies in the band, and the others are counted. Every entry holds the table
of what was asked of each source and what it gave (metrics["rl_table"]). Shards hold whole blocks; one whose rows this
version or its parent has already is shared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from schemas.recipe import Publishing
from schemas.tables import RL, SCHEMA_VERSION
from umer1_core.errors import RecipeError
from umer1_core.publishing.balance import Group, balance, rl_table
from umer1_core.publishing.judged import judge_pairs
from umer1_core.publishing.tables import RECORD, with_prompts
from umer1_core.query import connect, rows, scan
from umer1_core.shards import finished_table, inputs_hash, write_known
from umer1_core.store import ShardEntry, Store, fingerprint
from umer1_core.template import TRAINING_PROMPT_VERSION

_FORM = "rl/1"  # what makes the rows of a shard, beside what its digest covers

_CANDIDATES = """
CREATE TEMP TABLE candidates AS
SELECT pair_id, source, modality, CASE WHEN kept THEN 'cold_start' ELSE 'rejected' END AS origin,
       $2 AND rank IS NULL AS unranked, coalesce(rank NOT BETWEEN $3 AND $4, false) AS outside_band
FROM judged LEFT JOIN ranks USING (pair_id)
WHERE modality <> 'image' OR len($1::VARCHAR[]) = 0 OR list_contains($1::VARCHAR[], source)
"""
_GROUPS = """
SELECT modality, source, count(*) FILTER (origin = 'rejected' AND offered) AS preferred,
       count(*) FILTER (origin = 'cold_start' AND offered) AS others, count(*) FILTER (unranked) AS unranked,
       count(*) FILTER (outside_band) AS outside_band
FROM (SELECT *, NOT unranked AND NOT outside_band AS offered FROM candidates) GROUP BY ALL ORDER BY ALL
"""
# The pairs of a source by origin and hash; those taken are cut into blocks by another hash, so that a block holds both
# origins; blocks follow each other by a hash, so that sources alternate.
_CHOSEN = """
CREATE TEMP TABLE chosen AS
SELECT pair_id, origin, block, row_number() OVER (ORDER BY block, turn, pair_id) - 1 AS position
FROM (SELECT *, (dense_rank() OVER (ORDER BY md5($1 || source || '#' || number), source, number) - 1)::INTEGER AS block
      FROM (SELECT *, (row_number() OVER (PARTITION BY source ORDER BY turn, pair_id) - 1) // $2 AS number
            FROM (SELECT pair_id, source, modality, origin, md5($1 || 'turn' || pair_id) AS turn,
                         row_number() OVER (PARTITION BY modality, source
                                            ORDER BY origin = 'cold_start', md5($1 || pair_id), pair_id) AS place
                  FROM candidates WHERE NOT unranked AND NOT outside_band) ranked
            JOIN quotas USING (modality, source)
            WHERE place <= quota) taken) numbered
"""
_DIGESTS = f"""
SELECT position // $1 AS shard, count(*) AS pairs, sum(row_hash)::VARCHAR AS total, bit_xor(row_hash)::VARCHAR AS mixed
FROM (SELECT position, hash({RECORD}, position, block, origin) AS row_hash FROM pairs JOIN chosen USING (pair_id))
GROUP BY shard ORDER BY shard
"""
_ROWS = """
SELECT pairs.*, origin, block FROM pairs JOIN chosen USING (pair_id)
WHERE position >= ? AND position < ? ORDER BY position
"""


def publish_rl(
    store: Store, settings: Publishing, seed: int, made_with: str = "", parent: Store | None = None
) -> list[ShardEntry]:
    """Write a balanced selection of at most `settings.rl_pairs` pairs (balance.py says which); of `parent`, unchanged
    shards are shared. Raises RecipeError where the ranks cannot be used."""
    inputs = fingerprint(inputs_hash(store, ["pairs", "verdicts"]), _ranks_hash(settings.rl_ranks), seed)
    if done := finished_table(store, "rl", made_with, inputs):
        return done
    with connect() as connection:
        scan(connection, store, "pairs")
        scan(connection, store, "verdicts", ["side_key", "kept"])
        judge_pairs(connection)
        connection.register("ranks", _ranks(settings.rl_ranks))
        band = [list(settings.rl_image_sources), bool(settings.rl_ranks), *settings.rl_rank_band]
        connection.execute(_CANDIDATES, band)
        metrics = {"inputs": inputs} | _choose(connection, settings, seed)
        per_shard = max(settings.shard_rows // metrics["block"], 1) * metrics["block"]

        def make(shards: list[str]) -> Iterator[tuple[str, pa.Table]]:
            for shard in shards:
                first = int(shard) * per_shard
                part = connection.sql(_ROWS, params=[first, first + per_shard]).to_arrow_table()
                yield shard, with_prompts(part).select(RL.names)

        return write_known(store, "rl", _digests(connection, per_shard), make, parent, made_with, metrics)


def _choose(connection: duckdb.DuckDBPyConnection, settings: Publishing, seed: int) -> dict[str, Any]:
    """Make `chosen` (pair_id, origin, block, position); returns the block's size and the table."""
    groups = [Group(**row) for row in rows(connection, _GROUPS)]
    selection = balance(settings.rl_pairs, settings.rl_block, groups, seed)
    connection.execute("CREATE TEMP TABLE quotas (modality VARCHAR, source VARCHAR, quota BIGINT)")
    for (modality, _, source), quota in selection.taken.items():
        connection.execute("INSERT INTO quotas VALUES (?, ?, ?)", [modality, source, quota])
    connection.execute(_CHOSEN, [f"{seed}:", selection.block])
    return {"block": selection.block, "rl_table": rl_table(groups, selection)}


def _digests(connection: duckdb.DuckDBPyConnection, per_shard: int) -> dict[str, str]:
    versions = (_FORM, SCHEMA_VERSION, TRAINING_PROMPT_VERSION)
    return {
        f"{row['shard']:05d}": fingerprint(versions, row["pairs"], row["total"], row["mixed"])
        for row in rows(connection, _DIGESTS, [per_shard])
    }


def _ranks_hash(uri: str) -> str:
    return blake3(_read_ranks(uri)).hexdigest() if uri else ""


def _read_ranks(uri: str) -> bytes:
    try:
        with fsspec.open(uri, "rb") as file:
            return bytes(file.read())
    except OSError as error:
        raise RecipeError(
            f"publishing.rl_ranks: {uri} cannot be read: {error.strerror or error}.",
            "Name a Parquet file with the columns pair_id and rank, or leave rl_ranks empty.",
        ) from error


def _ranks(uri: str) -> pa.Table:
    """pair_id and rank, a pair at most once."""
    schema = pa.schema([("pair_id", pa.string()), ("rank", pa.int64())])
    if not uri:
        return schema.empty_table()
    try:
        table = pq.read_table(pa.BufferReader(_read_ranks(uri)), columns=schema.names).select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as error:
        raise RecipeError(
            f"publishing.rl_ranks: {uri} has no pair_id (text) and rank (whole numbers): {error}.",
            "Write a Parquet file with these two columns.",
        ) from error
    if len(table["pair_id"].unique()) != table.num_rows:
        raise RecipeError(
            f"publishing.rl_ranks: {uri} names a pair more than once.",
            "Give every pair_id one rank, the best or the mean.",
        )
    return table
