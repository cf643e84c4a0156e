"""The gate at size, against Great Expectations over all rows of the widest table."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa

from schemas.recipe import Validation
from schemas.suites import suites
from schemas.tables import TABLES
from tests.bench.line import Line
from umer1_core.loops import COUNTS
from umer1_core.store import Store
from umer1_core.validation.expectations import Frame, check
from umer1_core.validation.validate import validate

PAIRS = 200_000
_SHARD_ROWS = 20_000

_MEDIA = """[{'kind': 'image', 'uri': $file, 'member': '', 'offset': -1, 'frames': []::VARCHAR[],
  'content_hash': md5('m' || i), 'size': 1000, 'width': 640, 'height': 480, 'notes': []::VARCHAR[]}]"""
_NO_MEDIA = f"list_slice({_MEDIA}, 1, 0)"
_NO_SIDES = f"list_slice([{{'text': '', 'media': {_MEDIA}}}], 1, 0)"
_KEYS = "md5('p' || i) AS pair_id, 'mmeb/' || (i % 20) AS source, 'image' AS modality"
_SIDE_KEYS = "md5('q' || i) AS query_key, md5('t' || i) AS target_key"
_PROMPT = "'what is shown in number ' || i || '?' || chr(10) || '<disc_emb>' || chr(10) || 'Represent the above input.'"
_RESPONSE = """'<think>' || repeat('the picture shows number ' || i || ', ', $words) || '</think><answer>number '
  || i || chr(10) || '<gen_emb>'"""
_PROVENANCE = """{'row': 'a#' || i, 'query_annotator': 'x', 'query_sample': 0, 'query_round': 0,
  'target_annotator': 'x', 'target_sample': 0, 'target_round': 0}"""
_TABLES = {
    "pairs": f"""SELECT {_KEYS}, 'a#' || i AS row, {_SIDE_KEYS}, {{'text': 'q' || i, 'media': {_MEDIA}}} AS query,
      {{'text': 't' || i, 'media': {_NO_MEDIA}}} AS target, {_NO_SIDES} AS negatives FROM range($a, $b) AS t(i)""",
    "cold_start": f"""SELECT {_KEYS}, {_SIDE_KEYS}, {_PROMPT} AS query_prompt, {_MEDIA} AS query_media,
      {_RESPONSE} AS query_response, {_PROMPT} AS target_prompt, {_NO_MEDIA} AS target_media,
      {_RESPONSE} AS target_response,
      {_NO_SIDES} AS negatives, []::VARCHAR[] AS flags, {_PROVENANCE} AS provenance FROM range($a, $b) AS t(i)""",
}
_SIDES = {
    "sides": f"""SELECT md5(r || i) AS side_key, 'mmeb/' || (i % 20) AS source, 'image' AS modality, 1 AS uses,
      r || i AS text, {_MEDIA} AS media""",
    "annotations": f"""SELECT md5(r || i) AS side_key, 0 AS sample, 'mmeb/' || (i % 20) AS source,
      {_RESPONSE} AS completion,
      'stop' AS finish_reason, 9 AS prompt_tokens, 9 AS completion_tokens, 1 AS attempts, 0 AS round, 0.5 AS seconds,
      'x' AS annotator, '' AS reason, '' AS error""",
    "attempts": """SELECT md5(r || i) AS side_key, 0 AS sample, 'mmeb/' || (i % 20) AS source,
      1 AS attempt, 'ok' AS outcome,
      1 AS seed, 1.0 AS temperature, 'stop' AS finish_reason, 9 AS prompt_tokens, 9 AS completion_tokens,
      0.5 AS seconds, 'r' AS replica, '' AS completion, '' AS error""",
    "verdicts": f"""SELECT md5(r || i) AS side_key, 0 AS sample, 'mmeb/' || (i % 20) AS source, true AS kept,
      []::VARCHAR[] AS reasons, []::VARCHAR[] AS flags, []::VARCHAR[] AS form, {_RESPONSE} AS reasoning, 's' AS summary,
      9 AS reasoning_tokens, 0 AS repeat_period, 0 AS repeat_count, 0 AS repeat_tokens,
      list_resize([0], {len(COUNTS)}, 0) AS repeat_profile, list_resize([0], {len(COUNTS)}, 0) AS repeat_periods,
      0 AS burst_chars, 0 AS commentary_chars, 0 AS prompt_copy,
      1 AS summary_chars, 9 AS completion_tokens, 1 AS uses""",
}


def lines() -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as folder:
        store = write_data_set(Path(folder), PAIRS)
        ours = _seconds(lambda: _validated(store))
        peer = _seconds(lambda: _whole_tables_by_great_expectations(store, Path(folder) / "docs"))
        name = f"data: validation of {PAIRS:,} pairs, all tables and totals"
        yield Line(name, ours, peer, "CPU s", "Great Expectations over the rows of cold_start alone", 1.0, False)


def write_data_set(folder: Path, pairs: int, words: int = 4) -> Store:
    """A sound data set with all tables; `words` sets the width of its responses."""
    file = folder / "picture.jpg"
    file.write_bytes(b"-")
    store = Store(str(folder / "v1"))
    with duckdb.connect() as connection:
        connection.execute("SET memory_limit = '1GB'")
        for number, first in enumerate(range(0, pairs, _SHARD_ROWS)):
            bounds = {"a": first, "b": min(first + _SHARD_ROWS, pairs)}
            for table, sql in _queries().items():
                given = {"file": str(file), "words": words, **bounds}
                used = {name: value for name, value in given.items() if f"${name}" in sql}
                store.write_shard(table, f"{number:05d}", _arrow(connection, sql, used).select(TABLES[table].names))
        store.write_shard("rl", "00000", [])
    return store


def _arrow(connection: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, Any]) -> pa.Table:
    return connection.sql(sql, params=parameters).to_arrow_table()


def _queries() -> dict[str, str]:
    roles = "FROM range($a, $b) AS t(i), (VALUES ('q'), ('t')) AS roles(r)"
    return _TABLES | {table: f"{sql} {roles}" for table, sql in _SIDES.items()}


def _validated(store: Store) -> None:
    outcome = validate(store, Validation(), "bench")
    if not outcome.success:
        raise RuntimeError(outcome.message)


def _whole_tables_by_great_expectations(store: Store, docs: Path) -> None:
    rows = store.read("cold_start").to_pylist()
    for row in rows:
        row["media_missing"] = sum(not os.path.exists(media["uri"]) for media in row.pop("query_media"))
    rows = pd.DataFrame(rows).drop(columns=["target_media", "negatives", "provenance"]).to_dict("records")
    findings = check([Frame("sample", rows, "pair_id", "pair", private=True)], suites(Validation()), docs)
    if findings.failures:
        raise RuntimeError(str(findings.failures[0]))


def _seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started
