"""What is measured of every shard before anything is trained on it: one row per shard of every table that is checked.

Guarantees: a shard is read once and its bytes are compared with its manifest entry; a shard that cannot be read is a
row with `intact` false, not an exception. The order of rows is the order of shards. No row of a shard becomes a Python
object, except those whose form is in doubt and those of the sample.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import TABLES
from umer1_core import loops
from umer1_core.store import ShardEntry, Store
from umer1_core.template import ANSWER_OPEN, GEN_EMB, THINK_CLOSE, THINK_OPEN, parse_rollout
from umer1_core.validation.expectations import NOTE
from umer1_core.validation.sample import Sampler
from umer1_core.validation.shard import Shard, open_shard

Row = dict[str, Any]

OUTCOMES = ["ok", "cut", "loop", "malformed", "transient", "bad_input"]  # of attempts
_KEY = r"\A[0-9a-f]{32}\z"
_THREADS = 2  # each holds a shard and some of its columns

# Every response with this shape and each tag once has the form; of others the parser says.
_SHAPE = rf"(?s)\A{THINK_OPEN}\s*[^\s<].*{THINK_CLOSE}{ANSWER_OPEN}[ \t]*[^\s<].*{GEN_EMB}\z"
_TAGS = [THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, "</answer>", "<|begin_of_box|>", "<|end_of_box|>", GEN_EMB]
_TIMES = [1, 1, 1, 0, 0, 0, 1]


def shard_metrics(store: Store, sampler: Sampler) -> dict[str, list[Row]]:
    """Of every table that is checked, one row per shard. The sampler is shown the shards of cold_start."""
    measures: dict[str, Callable[[Shard], Row]] = {
        "pairs": pair_metrics,
        "sides": side_metrics,
        "annotations": annotation_metrics,
        "attempts": attempt_metrics,
        "verdicts": verdict_metrics,
        "cold_start": partial(cold_start_metrics, sampler=sampler),
        "rl": pair_metrics,
    }
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="validate") as pool:
        return {
            table: list(pool.map(partial(_measure_shard, store, measure), store.entries(table)))
            for table, measure in measures.items()
        }


def cold_start_metrics(shard: Shard, sampler: Sampler) -> Row:
    """Also the share of responses of the right form, empty summaries, and lengths in characters."""
    problems, longest, total = [], 0, 0
    for name in ("query_response", "target_response"):
        problems += response_problems(shard[name])
        lengths = pc.utf8_length(shard[name])
        longest = max(longest, pc.max(lengths).as_py() or 0)
        total += pc.sum(lengths).as_py() or 0
    responses = 2 * shard.rows
    row = {
        **pair_metrics(shard),
        "form_share": _share(responses - len(problems), responses, empty=1.0),
        "empty_summaries": problems.count("empty_summary"),
        "prompt_chars_max": max(_longest(shard, name) for name in ("query_prompt", "target_prompt")),
        "response_chars_mean": _share(total, responses),
        "response_chars_max": longest,
        "null_provenance_fields": _null_fields(shard, "provenance"),
    }
    sampler.look(shard)
    return row


def pair_metrics(shard: Shard) -> Row:
    """Missing values, keys without their form, pairs that stand twice."""
    keys = (shard[name] for name in ("pair_id", "query_key", "target_key"))
    return {
        **_missing(shard),
        "malformed_keys": sum(_mismatches(column, _KEY) for column in keys),
        "duplicate_pair_ids": _duplicates(shard["pair_id"]),
    }


def side_metrics(shard: Shard) -> Row:
    return {**_missing(shard), "duplicate_side_keys": _duplicates(shard["side_key"])}


def annotation_metrics(shard: Shard) -> Row:
    """Share of what was asked for and could not be had, and of completions that the server cut, by its reason."""
    finish = shard["finish_reason"]
    return {
        "null_side_key": shard.nulls("side_key"),
        "error_fraction": _share(_count(finish, "error"), shard.rows),
        "truncated_fraction": _share(_count(finish, "length"), shard.rows),
        "looping_fraction": _share(_count(finish, "repetition"), shard.rows),
    }


def attempt_metrics(shard: Shard) -> Row:
    """Requests of no side or without a known outcome."""
    known = pc.is_in(shard["outcome"], value_set=pa.array(OUTCOMES))
    return {
        "null_side_key": shard.nulls("side_key"),
        "unknown_outcomes": shard.rows - (pc.sum(known).as_py() or 0),
    }


def verdict_metrics(shard: Shard) -> Row:
    """Share of annotations that were kept; verdicts that contradict themselves or lack a score.

    A verdict is contradictory when it drops without a reason or keeps with one, or names a reason also as a flag.
    """
    kept, reasons = shard["kept"], pc.list_value_length(shard["reasons"])
    contradictory = pc.sum(pc.equal(kept, pc.greater(pc.fill_null(reasons, 0), 0)))
    return {
        "null_kept": kept.null_count,
        "null_scores": sum(shard.nulls(name) for name in TABLES["verdicts"].names if name != "kept"),
        "kept_fraction": _share(pc.sum(kept).as_py() or 0, shard.rows, empty=1.0),
        "contradictory_verdicts": contradictory.as_py() or 0,
        "flags_that_are_reasons": _flags_that_are_reasons(shard),
        "incomplete_repeat_profiles": _incomplete_profiles(shard),
    }


def response_problems(responses: pa.ChunkedArray) -> list[str]:
    """What is wrong with each response that is not of the form; the others have no entry."""
    right = pc.match_substring_regex(responses, _SHAPE)
    for tag, times in zip(_TAGS, _TIMES, strict=True):
        right = pc.and_(right, pc.equal(pc.count_substring(responses, tag), times))
    doubtful = responses.filter(pc.invert(pc.fill_null(right, False)))
    found = (parse_rollout(text or "").problem for text in doubtful.to_pylist())
    return [problem for problem in found if problem]


def _measure_shard(store: Store, measure: Callable[[Shard], Row], entry: ShardEntry) -> Row:
    shard = open_shard(store, entry)
    if shard is None:
        return {"shard": entry.shard, "intact": False, "rows": entry.rows}
    return {"shard": entry.shard, "intact": shard.rows == entry.rows, "rows": shard.rows, **measure(shard)}


def _missing(shard: Shard) -> Row:
    """Cells without a value, and of which columns."""
    counts = {name: shard.nulls(name) for name in TABLES[shard.table].names}
    found = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    return {"missing_values": sum(counts.values()), NOTE: f"missing: {found}" if found else None}


def _null_fields(shard: Shard, struct: str) -> int:
    """Fields of a struct column without a value."""
    if not shard.has(struct):
        return 0  # an earlier schema version's; `missing_values` tells where it must be there
    fields = shard[struct].combine_chunks().flatten()
    return sum(field.null_count for field in fields)


def _flags_that_are_reasons(shard: Shard) -> int:
    if not shard.has("flags"):
        return 0
    verdicts = pa.table({"flags": shard["flags"], "reasons": shard["reasons"]})
    with duckdb.connect() as connection:
        connection.register("verdicts", verdicts)
        found = connection.execute("SELECT count(*) FROM verdicts WHERE list_has_any(flags, reasons)").fetchone()
    return int(found[0]) if found else 0


def _incomplete_profiles(shard: Shard) -> int:
    """Verdicts whose profile has not one number for each of `umer1_core.loops.COUNTS`."""
    incomplete = 0
    for name in ("repeat_profile", "repeat_periods"):
        if shard.has(name):
            complete = pc.equal(pc.list_value_length(shard[name]), len(loops.COUNTS))
            incomplete += shard.rows - (pc.sum(complete).as_py() or 0)
    return incomplete


def _mismatches(column: pa.ChunkedArray, pattern: str) -> int:
    """Values that are there and do not match."""
    return len(column) - column.null_count - (pc.sum(pc.match_substring_regex(column, pattern)).as_py() or 0)


def _duplicates(column: pa.ChunkedArray) -> int:
    return len(column) - len(column.unique())


def _count(column: pa.ChunkedArray, value: str) -> int:
    return int(pc.sum(pc.equal(column, value)).as_py() or 0)


def _longest(shard: Shard, name: str) -> int:
    return int(pc.max(pc.utf8_length(shard[name])).as_py() or 0)


def _share(part: float, whole: int, empty: float = 0.0) -> float:
    return round(part / whole, 6) if whole else empty
