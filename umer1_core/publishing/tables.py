"""The table `cold_start`: pairs whose sides are both kept, ready for a trainer.

Guarantees: a pair is published only if both its sides have a kept sample, and takes one of each. Which shard a pair
stands in depends on its pair_id and the number of sampled pairs alone, and rows are in the order of a hash of pair_id:
when a pair drops out, one shard changes. A shard whose rows this version or its parent has already is shared, not
written: a digest over the rows tells, before anything is joined. Tables are read once, however many shards are written,
and as rows some at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import COLD_START, PAIRS, PROVENANCE, SCHEMA_VERSION
from umer1_core.errors import StorageError
from umer1_core.publishing.judged import choose_samples, judge_pairs
from umer1_core.query import Scattered, connect, rows, scan, scatter
from umer1_core.shards import finished_table, inputs_hash, write_known
from umer1_core.store import ShardEntry, Store, fingerprint
from umer1_core.template import TRAINING_PROMPT_VERSION, training_prompt, training_response

_FORM = "cold_start/1"  # what makes the rows of a shard, beside what its digest covers
_PARTS = 128  # files of intermediate rows that are open at a time
_INPUTS = ["pairs", "verdicts", "annotations"]
_VERDICTS = ["side_key", "sample", "kept", "reasoning", "summary", "flags"]
_ANNOTATIONS = ["side_key", "sample", "annotator", "round"]

# Hashes are DuckDB's, 64 bits: another DuckDB may hash otherwise, and shards are then written anew.
_ANSWERS = """
CREATE TEMP TABLE answers AS
SELECT side_key, sample, said, round, list_position($1::VARCHAR[], annotator)::SMALLINT AS annotator
FROM (SELECT side_key, sample, hash(reasoning, summary, flags) AS said FROM verdicts WHERE kept) kept_samples
LEFT JOIN annotations USING (side_key, sample)
"""
# Buckets are equal ranges of the hash that rows are ordered by, so that their order is that of the shards.
_KEPT = """
CREATE TEMP TABLE kept AS
SELECT row_number() OVER (ORDER BY place, pair_id) - 1 AS position, (('0x' || place[1:8])::BIGINT * $1) >> 32 AS bucket,
       good.* EXCLUDE (place), q.said AS query_said, q.round AS query_round, q.annotator AS query_annotator,
       t.said AS target_said, t.round AS target_round, t.annotator AS target_annotator
FROM (SELECT pair_id, md5(pair_id) AS place, query_key, target_key, coalesce(qc.sample, 0) AS query_sample,
             coalesce(tc.sample, 0) AS target_sample
      FROM pairs SEMI JOIN (FROM judged WHERE kept) USING (pair_id)
      LEFT JOIN (FROM choices WHERE role = 'query') qc USING (pair_id)
      LEFT JOIN (FROM choices WHERE role = 'target') tc USING (pair_id)) good
JOIN answers q ON q.side_key = query_key AND q.sample = query_sample
JOIN answers t ON t.side_key = target_key AND t.sample = target_sample
"""
RECORD = f"hash({', '.join(PAIRS.names)})".replace(" row,", ' "row",')  # of a whole row of pairs
_DIGESTS = f"""
SELECT bucket, count(*) AS pairs, sum(row_hash)::VARCHAR AS total, bit_xor(row_hash)::VARCHAR AS mixed
FROM (SELECT bucket, hash(record, query_said, query_sample, query_round, list_extract($1::VARCHAR[], query_annotator),
                          target_said, target_sample, target_round, list_extract($1::VARCHAR[], target_annotator))
             AS row_hash
      FROM kept JOIN (SELECT pair_id, {RECORD} AS record FROM pairs) USING (pair_id))
GROUP BY bucket ORDER BY bucket
"""
_PAIRS = """
SELECT part, position, bucket, pairs.*, query_sample, query_round, query_annotator, target_sample, target_round,
       target_annotator
FROM pairs JOIN (SELECT * EXCLUDE (query_key, target_key) FROM kept JOIN wanted USING (bucket)) USING (pair_id)
"""
_SAID = """
SELECT part, position, reasoning, summary, flags
FROM verdicts JOIN (
    SELECT part, position, {role}_key AS side_key, {role}_sample AS sample FROM kept JOIN wanted USING (bucket)
) USING (side_key, sample)
"""


def publish_cold_start(
    store: Store, shard_rows: int, made_with: str = "", parent: Store | None = None
) -> list[ShardEntry]:
    """Write the pairs whose sides both have a kept sample; of `parent`, unchanged shards are shared.

    shard_rows: sampled pairs a shard; those kept stand in it. Shards that would be empty are left out. Raises
    StorageError where the tables hold something twice.
    """
    inputs = inputs_hash(store, _INPUTS)
    if done := finished_table(store, "cold_start", made_with, inputs):
        return done
    with connect() as connection:
        scan(connection, store, "pairs")
        scan(connection, store, "verdicts", _VERDICTS)
        scan(connection, store, "annotations", _ANNOTATIONS)
        annotators = _prepare(connection, shard_rows)
        digests = _digests(connection, annotators)

        def make(shards: list[str]) -> Iterator[tuple[str, pa.Table]]:
            yield from _shards(connection, shards, annotators)

        return write_known(store, "cold_start", digests, make, parent, made_with, {"inputs": inputs})


def with_prompts(part: pa.Table) -> pa.Table:
    """The user turns of both sides, from the columns `query` and `target`."""
    for role in ("query", "target"):
        texts = part.column(role).combine_chunks().field("text").to_pylist()
        part = part.append_column(f"{role}_prompt", pa.array(map(training_prompt, texts), pa.string()))
        part = part.append_column(f"{role}_media", part.column(role).combine_chunks().field("media"))
    return part


def _prepare(connection: duckdb.DuckDBPyConnection, shard_rows: int) -> list[str]:
    """Make `kept`; returns the annotators' names, which it refers to by number."""
    found = rows(connection, "SELECT DISTINCT annotator FROM annotations WHERE annotator IS NOT NULL ORDER BY 1")
    annotators = [str(row["annotator"]) for row in found]
    judge_pairs(connection)
    choose_samples(connection)
    (sampled,) = rows(connection, "SELECT count(*) AS pairs FROM judged")
    connection.execute(_ANSWERS, [annotators])
    connection.execute(_KEPT, [max(1, round(int(sampled["pairs"]) / shard_rows))])
    for table in ("answers", "judged", "choices", "several"):
        connection.execute(f"DROP TABLE {table}")
    return annotators


def _digests(connection: duckdb.DuckDBPyConnection, annotators: list[str]) -> dict[str, str]:
    """By shard, in order."""
    versions = (_FORM, SCHEMA_VERSION, TRAINING_PROMPT_VERSION)
    return {
        f"{row['bucket']:05d}": fingerprint(versions, row["pairs"], row["total"], row["mixed"])
        for row in rows(connection, _DIGESTS, [annotators])
    }


def _shards(
    connection: duckdb.DuckDBPyConnection, shards: Sequence[str], annotators: list[str]
) -> Iterator[tuple[str, pa.Table]]:
    """The rows of these shards. Each wide table is read once and its rows sorted into files, some shards a file."""
    width = -(-len(shards) // _PARTS)
    connection.execute("CREATE TEMP TABLE wanted (bucket BIGINT, part INTEGER)")
    wanted = [(int(shard), number // width) for number, shard in enumerate(shards)]
    connection.executemany("INSERT INTO wanted VALUES (?, ?)", wanted)
    # The small side of each join is the one built in memory: the right one. The wide one streams past it.
    connection.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
    with tempfile.TemporaryDirectory(prefix="umer1-publish-") as folder:
        pairs = scatter(connection, _PAIRS, Path(folder) / "pairs")
        said = {role: scatter(connection, _SAID.format(role=role), Path(folder) / role) for role in ("query", "target")}
        for part in sorted({number for _, number in wanted}):
            yield from _cut(pairs, said, part, annotators)


def _cut(
    pairs: Scattered, said: dict[str, Scattered], part: int, annotators: list[str]
) -> Iterator[tuple[str, pa.Table]]:
    both = pairs.read(part)
    for role in ("query", "target"):
        answers = said[role].read(part)
        if not answers["position"].equals(both["position"]):
            raise StorageError(
                "The tables contradict each other: a pair, or a sample of a side, stands in them twice.",
                "If a source stands in the recipe twice, remove one; `umer1 validate` says which table it is.",
            )
        for name in ("reasoning", "summary", "flags"):
            both = both.append_column(f"{role}_{name}", answers[name])
    buckets = both["bucket"].to_numpy()
    starts = np.flatnonzero(np.r_[True, buckets[1:] != buckets[:-1]])
    for start, end in zip(starts, [*starts[1:], len(buckets)], strict=True):
        yield f"{buckets[start]:05d}", _rows(both.slice(start, end - start), annotators)


def _rows(part: pa.Table, annotators: list[str]) -> pa.Table:
    """Rows of schemas.tables.COLD_START."""
    part = with_prompts(part)
    for role in ("query", "target"):
        thought, summary = part[f"{role}_reasoning"].to_pylist(), part[f"{role}_summary"].to_pylist()
        responses = (training_response(*pair) for pair in zip(thought, summary, strict=True))
        part = part.append_column(f"{role}_response", pa.array(responses, pa.string()))
    part = part.append_column("flags", _flags(part))
    return part.append_column("provenance", _provenance(part, annotators)).select(COLD_START.names)


def _flags(part: pa.Table) -> pa.Array:
    query, target = (
        [[f"{role}:{flag}" for flag in found or ()] for found in part[f"{role}_flags"].to_pylist()]
        for role in ("query", "target")
    )
    return pa.array([q + t for q, t in zip(query, target, strict=True)], pa.list_(pa.string()))


def _provenance(part: pa.Table, annotators: list[str]) -> pa.StructArray:
    def column(field: pa.Field) -> pa.Array:
        values = part[field.name].combine_chunks()
        if field.name.endswith("_annotator"):
            names = pa.array(annotators, pa.string())
            values = names.take(pc.subtract(values, 1))
        return values.cast(field.type)

    return pa.StructArray.from_arrays([column(field) for field in PROVENANCE], fields=list(PROVENANCE))
