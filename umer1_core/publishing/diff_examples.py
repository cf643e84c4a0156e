"""Pairs that a difference is shown by: of every kind of change and source some, with what was said of them before.

Guarantees: the same two data sets and seed give the same examples; kinds take turns, and in each kind its sources do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from umer1_core.pairs import side_from_record
from umer1_core.query import rows, scan
from umer1_core.store import Store

_DRAW = """
SELECT pair_id, source, kind FROM (
    SELECT *, row_number() OVER (PARTITION BY kind ORDER BY turn, place) AS kind_turn
    FROM (SELECT *, md5($1 || pair_id) AS place,
                 row_number() OVER (PARTITION BY kind, source ORDER BY md5($1 || pair_id)) AS turn
          FROM changes WHERE kind NOT IN ('kept_in_both', 'dropped_in_both')) by_source)
ORDER BY kind_turn, kind LIMIT $2
"""
_STATES = "SELECT pair_id, kept, query_sample, target_sample FROM state_{name} WHERE pair_id IN (SELECT unnest(?))"
_PAIRS = "SELECT * FROM pairs WHERE pair_id IN (SELECT unnest(?))"
_SAID = "SELECT side_key, sample, kept, summary FROM verdicts WHERE side_key IN (SELECT unnest(?)) ORDER BY sample"
_REASONS = """
SELECT pair_id, list(DISTINCT reason ORDER BY reason) AS reasons
FROM refusals_{name} WHERE pair_id IN (SELECT unnest(?)) GROUP BY pair_id
"""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a data set says of a pair: kept or dropped and why, and the summaries of the samples it takes."""

    kept: bool
    reasons: tuple[str, ...]
    query_summary: str
    target_summary: str


@dataclass(frozen=True, slots=True)
class Example:
    """`before` and `after`: None where that data set does not have the pair. Media stand as where they lie."""

    kind: str
    pair_id: str
    source: str
    query: str
    query_media: tuple[str, ...]
    target: str
    target_media: tuple[str, ...]
    before: Judgement | None
    after: Judgement | None


def draw_examples(
    connection: duckdb.DuckDBPyConnection, stores: Mapping[str, Store], count: int, seed: int
) -> tuple[Example, ...]:
    """At most `count` changed pairs, of the tables `changes`, `state_a`, `state_b`, `refusals_a` and `refusals_b`."""
    drawn = rows(connection, _DRAW, [f"{seed}:", count])
    wanted = [str(row["pair_id"]) for row in drawn]
    known: dict[str, dict[str, Any]] = {}
    judged: dict[str, dict[str, Judgement]] = {}
    for name, store in stores.items():
        pairs = _pairs(connection, store, wanted)
        known |= pairs
        judged[name] = _judgements(connection, store, name, pairs)
    return tuple(_example(row, known[row["pair_id"]], judged) for row in drawn)


def _example(row: Mapping[str, Any], pair: Mapping[str, Any], judged: Mapping[str, dict[str, Judgement]]) -> Example:
    query, target = side_from_record(pair["query"]), side_from_record(pair["target"])
    return Example(
        row["kind"],
        row["pair_id"],
        row["source"],
        query.text,
        tuple(media.where for media in query.media),
        target.text,
        tuple(media.where for media in target.media),
        judged["a"].get(row["pair_id"]),
        judged["b"].get(row["pair_id"]),
    )


def _pairs(connection: duckdb.DuckDBPyConnection, store: Store, wanted: Sequence[str]) -> dict[str, dict[str, Any]]:
    scan(connection, store, "pairs")
    return {str(row["pair_id"]): row for row in rows(connection, _PAIRS, [list(wanted)])}


def _judgements(
    connection: duckdb.DuckDBPyConnection, store: Store, name: str, pairs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Judgement]:
    scan(connection, store, "verdicts", ["side_key", "sample", "kept", "summary"])
    keys = sorted({str(pair[f"{role}_key"]) for pair in pairs.values() for role in ("query", "target")})
    said = {(row["side_key"], row["sample"]): row["summary"] or "" for row in rows(connection, _SAID, [keys])}
    identifiers = list(pairs)
    reasons = {
        row["pair_id"]: tuple(row["reasons"]) for row in rows(connection, _REASONS.format(name=name), [identifiers])
    }
    return {
        row["pair_id"]: Judgement(
            bool(row["kept"]),
            reasons.get(row["pair_id"], ()),
            said.get((pairs[row["pair_id"]]["query_key"], row["query_sample"]), ""),
            said.get((pairs[row["pair_id"]]["target_key"], row["target_sample"]), ""),
        )
        for row in rows(connection, _STATES.format(name=name), [identifiers])
    }
