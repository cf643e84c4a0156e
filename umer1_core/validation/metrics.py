"""What is measured of a data set before anything is trained on it: a row per shard, and a row per identity.

Guarantees: a shard is read once, one at a time, and its bytes are compared with its manifest entry; a shard that
cannot be read is a row with `intact` false, not an exception. The order of rows is the order of shards.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3

from umer1_core import query
from umer1_core.pairs import draw_priority
from umer1_core.store import ShardEntry, Store, parse_shard
from umer1_core.template import parse_rollout

Row = dict[str, Any]

OUTCOMES = ["ok", "cut", "loop", "malformed", "transient", "bad_input"]  # of attempts

SAMPLE_COLUMNS = [
    "pair_id",
    "source",
    "modality",
    "query_key",
    "target_key",
    "query_prompt",
    "query_response",
    "target_prompt",
    "target_response",
]


def shard_metrics(store: Store) -> dict[str, list[Row]]:
    """Of every table that is checked, one row per shard."""
    measures: dict[str, Callable[[pa.Table], Row]] = {
        "pairs": pair_metrics,
        "sides": side_metrics,
        "annotations": annotation_metrics,
        "attempts": attempt_metrics,
        "verdicts": verdict_metrics,
        "cold_start": cold_start_metrics,
        "rl": pair_metrics,
    }
    return {
        table: [_measure_shard(store, entry, measure) for entry in store.entries(table)]
        for table, measure in measures.items()
    }


def cold_start_metrics(shard: pa.Table) -> Row:
    """Nulls, duplicates, share of responses of the right form, empty summaries, lengths in characters."""
    responses = [*shard["query_response"].to_pylist(), *shard["target_response"].to_pylist()]
    problems = [parse_rollout(text or "").problem for text in responses]
    return {
        **pair_metrics(shard),
        "form_share": _share(problems.count(""), len(problems), empty=1.0),
        "empty_summaries": problems.count("empty_summary"),
        "prompt_chars_max": _longest(shard, "query_prompt", "target_prompt"),
        "response_chars_mean": _share(sum(len(text or "") for text in responses), len(responses)),
        "response_chars_max": _longest(shard, "query_response", "target_response"),
    }


def pair_metrics(shard: pa.Table) -> Row:
    return {**_null_counts(shard), "duplicate_pair_ids": _duplicates(shard["pair_id"])}


def side_metrics(shard: pa.Table) -> Row:
    return {**_null_counts(shard), "duplicate_side_keys": _duplicates(shard["side_key"])}


def annotation_metrics(shard: pa.Table) -> Row:
    """Share of what was asked for and could not be had, and of completions that the server cut, by its reason."""
    finish = shard["finish_reason"]
    return {
        "null_side_key": shard["side_key"].null_count,
        "error_fraction": _share(_count(finish, "error"), shard.num_rows),
        "truncated_fraction": _share(_count(finish, "length"), shard.num_rows),
        "looping_fraction": _share(_count(finish, "repetition"), shard.num_rows),
    }


def attempt_metrics(shard: pa.Table) -> Row:
    """Requests of no side or without a known outcome."""
    known = pc.is_in(shard["outcome"], value_set=pa.array(OUTCOMES))
    return {
        "null_side_key": shard["side_key"].null_count,
        "unknown_outcomes": shard.num_rows - (pc.sum(known).as_py() or 0),
    }


def verdict_metrics(shard: pa.Table) -> Row:
    """Share of annotations the filters kept, and how many were dropped without a reason or kept with one."""
    kept, reasons = shard["kept"], pc.list_value_length(shard["reasons"])
    contradictory = pc.sum(pc.equal(kept, pc.greater(pc.fill_null(reasons, 0), 0)))
    return {
        "null_kept": kept.null_count,
        "kept_fraction": _share(pc.sum(kept).as_py() or 0, shard.num_rows, empty=1.0),
        "contradictory_verdicts": contradictory.as_py() or 0,
    }


def dataset_metrics(store: Store) -> list[Row]:
    """The one row about the data set as a whole."""
    pairs, cold_start = _rows(store, "pairs"), _rows(store, "cold_start")
    return [
        {
            "data_set": store.root.rsplit("/", 1)[-1],
            "pairs": pairs,
            "cold_start_pairs": cold_start,
            "rl_pairs": _rows(store, "rl"),
            "kept_fraction": _share(cold_start, pairs),
        }
    ]


_IDENTITIES = {
    "every side of a pair stands once in sides": (
        "(SELECT count(DISTINCT side_key) FROM used), (SELECT count(*) FROM sides)"
    ),
    "the uses of the sides are two per pair": "(SELECT 2 * count(*) FROM pairs), (SELECT sum(uses) FROM sides)",
    "every side is annotated": (
        "(SELECT count(*) FROM sides),"
        " (SELECT count(DISTINCT side_key) FROM annotations SEMI JOIN sides USING (side_key))"
    ),
    "no sample of a side stands twice in annotations": (
        "(SELECT count(*) FROM annotations), (SELECT count(*) FROM annotated)"
    ),
    "every annotation has a verdict": (
        "(SELECT count(*) FROM annotated), (SELECT count(*) FROM judged SEMI JOIN annotated USING (side_key, sample))"
    ),
    "no sample of a side stands twice in verdicts": "(SELECT count(*) FROM verdicts), (SELECT count(*) FROM judged)",
    "every annotation that was asked for has its attempts": (
        "(SELECT rows FROM asked), (SELECT count(*) FROM (SELECT DISTINCT side_key, sample FROM attempts))"
    ),
    "every attempt is of an annotation": (
        "(SELECT count(*) FROM attempts), (SELECT count(*) FROM attempts SEMI JOIN annotated USING (side_key, sample))"
    ),
    "a pair is in cold_start when both its sides are kept, and only then": (
        "(SELECT count(*) FROM kept_pairs), (SELECT count(*) FROM cold_start)"
    ),
    "every pair of cold_start is a kept pair": (
        "(SELECT count(*) FROM cold_start), (SELECT count(*) FROM cold_start SEMI JOIN kept_pairs USING (pair_id))"
    ),
    "no pair stands twice in cold_start": (
        "(SELECT count(*) FROM cold_start), (SELECT count(DISTINCT pair_id) FROM cold_start)"
    ),
    "every pair of rl is a sampled pair": (
        "(SELECT count(*) FROM rl), (SELECT count(DISTINCT pair_id) FROM rl SEMI JOIN pairs USING (pair_id))"
    ),
}
_IDENTITY_VIEWS = """
CREATE VIEW used AS SELECT query_key AS side_key FROM pairs UNION ALL SELECT target_key FROM pairs;
CREATE TABLE annotated AS SELECT DISTINCT side_key, sample FROM annotations;
CREATE TABLE judged AS SELECT DISTINCT side_key, sample FROM verdicts;
CREATE TABLE kept_sides AS SELECT DISTINCT side_key FROM verdicts WHERE kept;
CREATE TABLE kept_pairs AS SELECT pair_id FROM pairs
SEMI JOIN kept_sides AS q ON pairs.query_key = q.side_key
SEMI JOIN kept_sides AS t ON pairs.target_key = t.side_key;
"""
_IDENTITY_COLUMNS = {
    "pairs": ["pair_id", "query_key", "target_key"],
    "sides": ["side_key", "uses"],
    "annotations": ["side_key", "sample"],
    "attempts": ["side_key", "sample"],
    "verdicts": ["side_key", "sample", "kept"],
    "cold_start": ["pair_id"],
    "rl": ["pair_id"],
}


def identities(store: Store) -> list[Row]:
    """Counts that must agree between tables, a row each: both counts and their difference."""
    with query.connect() as connection:
        for table, columns in _IDENTITY_COLUMNS.items():
            query.scan(connection, store, table, columns)
        connection.execute(_IDENTITY_VIEWS)
        connection.execute("CREATE TABLE asked AS SELECT ? AS rows", [_asked(store)])
        rows = []
        for identity, counts in _IDENTITIES.items():
            left, right = (int(count or 0) for count in connection.execute(f"SELECT {counts}").fetchall()[0])
            rows.append({"identity": identity, "expected": left, "found": right, "difference": right - left})
    return rows


def _asked(store: Store) -> int:
    """Annotations not taken over from another version, of the shards that kept attempts: schema version 1 kept none."""
    recorded = {entry.shard for entry in store.entries("attempts")}
    shards = (entry for entry in store.entries("annotations") if entry.shard in recorded)
    return sum(entry.rows - int(entry.metrics.get("reused", 0)) for entry in shards)


def sample_cold_start(store: Store, rows: int, seed: int = 0) -> list[Row]:
    """At most `rows` rows of cold_start, drawn by hash: the same rows whatever the shards."""
    identifiers = store.read("cold_start", ["pair_id"])["pair_id"].to_pylist()
    chosen = heapq.nsmallest(rows, identifiers, key=lambda identifier: draw_priority(seed, str(identifier)))
    wanted = pa.array(chosen, pa.string())
    parts: list[Row] = []
    for entry in store.entries("cold_start"):
        table = store.read_shard("cold_start", entry.shard, SAMPLE_COLUMNS)
        parts.extend(table.filter(pc.is_in(table["pair_id"], value_set=wanted)).to_pylist())
    return parts


def _measure_shard(store: Store, entry: ShardEntry, measure: Callable[[pa.Table], Row]) -> Row:
    table = _intact_table(store, entry)
    if table is None:
        return {"shard": entry.shard, "intact": False, "rows": entry.rows}
    return {"shard": entry.shard, "intact": table.num_rows == entry.rows, "rows": table.num_rows, **measure(table)}


def _intact_table(store: Store, entry: ShardEntry) -> pa.Table | None:
    """The shard, or None when its bytes are not those its manifest entry names."""
    name = store.shard_name(entry.table, entry.shard)
    data = store.read_bytes(name) if store.exists(name) else b""
    if blake3(data).hexdigest() != entry.checksum:
        return None
    return parse_shard(entry.table, pa.BufferReader(data))


def _null_counts(shard: pa.Table) -> Row:
    return {f"null_{name}": shard[name].null_count for name in shard.column_names}


def _duplicates(column: pa.ChunkedArray) -> int:
    return len(column) - len(column.unique())


def _count(column: pa.ChunkedArray, value: str) -> int:
    return int(pc.sum(pc.equal(column, value)).as_py() or 0)


def _longest(shard: pa.Table, *columns: str) -> int:
    return max(int(pc.max(pc.utf8_length(shard[name])).as_py() or 0) for name in columns)


def _share(part: float, whole: int, empty: float = 0.0) -> float:
    return round(part / whole, 6) if whole else empty


def _rows(store: Store, table: str) -> int:
    return sum(entry.rows for entry in store.entries(table))
