"""What changed between two data sets: pairs and reasons by source, answers, shards, settings, and examples.

Guarantees: counted over the tables of both, not over what either says of itself; every pair of both stands under one
kind of change; a kept pair's answers are those that its sample of each side holds. Works for any two data sets: where
they have no pair in common, `related` says so. Memory is DuckDB's limit, not the size of the data sets.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import duckdb

from umer1_core.errors import StorageError
from umer1_core.publishing.diff_examples import Example, draw_examples
from umer1_core.publishing.judged import choose_samples, collect_refusals, judge_pairs
from umer1_core.query import connect, rows, scan
from umer1_core.store import Store

Kind = Literal[
    "only_in_a", "only_in_b", "kept_in_both", "dropped_in_both", "newly_kept", "newly_dropped", "answers_changed"
]
CHANGES = ("text", "sample", "round", "annotator")  # of an answer

_STATE = """
CREATE TEMP TABLE state_{name} AS
SELECT pair_id, source, kept, coalesce(qc.sample, 0) AS query_sample, coalesce(tc.sample, 0) AS target_sample,
       q.said AS query_said, q.round AS query_round, q.annotator AS query_annotator,
       t.said AS target_said, t.round AS target_round, t.annotator AS target_annotator
FROM judged JOIN (SELECT pair_id, query_key, target_key FROM pairs) USING (pair_id)
LEFT JOIN (FROM choices WHERE role = 'query') qc USING (pair_id)
LEFT JOIN (FROM choices WHERE role = 'target') tc USING (pair_id)
LEFT JOIN answers q ON kept AND q.side_key = query_key AND q.sample = coalesce(qc.sample, 0)
LEFT JOIN answers t ON kept AND t.side_key = target_key AND t.sample = coalesce(tc.sample, 0)
"""
_ANSWERS = """
CREATE TEMP TABLE answers AS
SELECT side_key, sample, said, round, hash(annotator) AS annotator
FROM (SELECT side_key, sample, hash(reasoning, summary) AS said FROM verdicts WHERE kept) kept_samples
LEFT JOIN annotations USING (side_key, sample)
"""
_CHANGED = {
    "text": "a.query_said IS DISTINCT FROM b.query_said OR a.target_said IS DISTINCT FROM b.target_said",
    "sample": "a.query_sample <> b.query_sample OR a.target_sample <> b.target_sample",
    "round": "a.query_round IS DISTINCT FROM b.query_round OR a.target_round IS DISTINCT FROM b.target_round",
    "annotator": "a.query_annotator IS DISTINCT FROM b.query_annotator"
    " OR a.target_annotator IS DISTINCT FROM b.target_annotator",
}
_CHANGES = f"""
CREATE TEMP TABLE changes AS
SELECT *, CASE
    WHEN NOT in_b THEN 'only_in_a' WHEN NOT in_a THEN 'only_in_b'
    WHEN kept_a AND kept_b THEN CASE WHEN {" OR ".join(CHANGES)} THEN 'answers_changed' ELSE 'kept_in_both' END
    WHEN kept_b THEN 'newly_kept' WHEN kept_a THEN 'newly_dropped' ELSE 'dropped_in_both' END AS kind
FROM (SELECT pair_id, coalesce(a.source, b.source) AS source, a.pair_id IS NOT NULL AS in_a,
             b.pair_id IS NOT NULL AS in_b, coalesce(a.kept, false) AS kept_a, coalesce(b.kept, false) AS kept_b,
             {", ".join(f"({sql}) AS {what}" for what, sql in _CHANGED.items())}
      FROM state_a a FULL JOIN state_b b USING (pair_id)) compared
"""
_COUNTS = "SELECT source, kind, count(*) AS pairs FROM changes GROUP BY ALL"
_REASONS = """
SELECT changes.source, reason, count(*) AS pairs
FROM changes JOIN refusals_b USING (pair_id) WHERE kind = 'newly_dropped' GROUP BY ALL ORDER BY ALL
"""
_ANSWER_CHANGES = f"""
SELECT source, {", ".join(f"count(*) FILTER ({what}) AS {what}" for what in CHANGES)}
FROM changes WHERE kind = 'answers_changed' GROUP BY source
"""


@dataclass(frozen=True, slots=True)
class SourceChange:
    """Pairs by kind of change, which add up to all pairs of both.

    reasons: of the newly dropped, in B; one may have several. changed: of those with other answers, what is other.
    """

    source: str
    pairs: dict[str, int]
    reasons: dict[str, int]
    changed: dict[str, int]


@dataclass(frozen=True, slots=True)
class ShardChange:
    """Shards of a table: of B's, those with the bytes of one of A's and the others; and A's whose names B has not."""

    table: str
    shared: int
    rewritten: int
    gone: int


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A field of the recipe or of the code that made the data set; None where one does not have it."""

    field: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class Difference:
    """a, b: the roots. related: pairs in common; descends: what version.json says of how B came from A."""

    a: str
    b: str
    related: int
    descends: bool
    sources: tuple[SourceChange, ...]
    shards: tuple[ShardChange, ...]
    settings: tuple[SettingChange, ...]
    examples: tuple[Example, ...]

    def total(self, kind: Kind) -> int:
        return sum(source.pairs[kind] for source in self.sources)


def diff(a: Store, b: Store, examples: int = 20, seed: int = 0) -> Difference:
    """Compare B with A. Raises StorageError where either holds no finished data set."""
    manifests = {store.root: _manifest(store) for store in (a, b)}
    with connect() as connection:
        for name, store in (("a", a), ("b", b)):
            _read_state(connection, store, name)
        connection.execute(_CHANGES)
        sources = _sources(connection)
        drawn = draw_examples(connection, {"a": a, "b": b}, examples, seed)
    return Difference(
        a.root,
        b.root,
        sum(sum(each.pairs.values()) - each.pairs["only_in_a"] - each.pairs["only_in_b"] for each in sources),
        _descends(a, b),
        sources,
        _shard_changes(a, b, manifests[b.root]["tables"]),
        tuple(_settings(manifests[a.root], manifests[b.root])),
        drawn,
    )


def _read_state(connection: duckdb.DuckDBPyConnection, store: Store, name: str) -> None:
    """Make `state_<name>` and `refusals_<name>`."""
    scan(connection, store, "pairs", ["pair_id", "source", "modality", "query_key", "target_key"])
    scan(connection, store, "verdicts", ["side_key", "sample", "kept", "reasons", "reasoning", "summary"])
    scan(connection, store, "annotations", ["side_key", "sample", "round", "annotator"])
    judge_pairs(connection)
    choose_samples(connection)
    collect_refusals(connection)
    connection.execute(_ANSWERS)
    connection.execute(_STATE.format(name=name))
    connection.execute(f"ALTER TABLE refusals RENAME TO refusals_{name}")
    for table in ("answers", "judged", "choices", "several"):
        connection.execute(f"DROP TABLE {table}")


def _sources(connection: duckdb.DuckDBPyConnection) -> tuple[SourceChange, ...]:
    pairs: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(get_args(Kind), 0))
    for row in rows(connection, _COUNTS):
        pairs[row["source"]][row["kind"]] = int(row["pairs"])
    reasons: dict[str, dict[str, int]] = defaultdict(dict)
    for row in rows(connection, _REASONS):
        reasons[row["source"]][row["reason"]] = int(row["pairs"])
    changed = {row["source"]: {what: int(row[what]) for what in CHANGES} for row in rows(connection, _ANSWER_CHANGES)}
    return tuple(
        SourceChange(source, pairs[source], reasons[source], changed.get(source, dict.fromkeys(CHANGES, 0)))
        for source in sorted(pairs)
    )


def _shard_changes(a: Store, b: Store, tables: Iterable[str]) -> tuple[ShardChange, ...]:
    """Of every table but `attempts`: it holds the requests that this version itself sent."""
    return tuple(change for table in tables if table != "attempts" and (change := _shards(a, b, table)))


def _shards(a: Store, b: Store, table: str) -> ShardChange | None:
    of_a, of_b = ({entry.shard: entry.checksum for entry in store.entries(table)} for store in (a, b))
    if not of_a and not of_b:
        return None
    known = set(of_a.values())
    shared = sum(checksum in known for checksum in of_b.values())
    return ShardChange(table, shared, len(of_b) - shared, len(of_a.keys() - of_b.keys()))


def _settings(a: dict[str, Any], b: dict[str, Any]) -> list[SettingChange]:
    chosen = ("recipe", "annotator", "prompt_versions", "code_version", "schema_version")
    of_a, of_b = (dict(_leaves({name: manifest.get(name) for name in chosen})) for manifest in (a, b))
    fields = sorted(of_a.keys() | of_b.keys())
    return [
        SettingChange(field.removeprefix("recipe."), of_a.get(field), of_b.get(field))
        for field in fields
        if of_a.get(field) != of_b.get(field)
    ]


def _leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Every value that is no section, by its path: `filters.max_reasoning_tokens`, `sources[0].limit`."""
    if isinstance(value, dict):
        return [leaf for key, part in value.items() for leaf in _leaves(part, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        return [leaf for number, part in enumerate(value) for leaf in _leaves(part, f"{name}[{number}]")]
    return [(name, value)]


def _descends(a: Store, b: Store) -> bool:
    """Whether A is B's parent, or its parent's, and so on."""
    seen: set[str] = set()
    parent = b.parent
    while parent is not None and parent.root not in seen:
        if parent.path == a.path:
            return True
        seen.add(parent.root)
        parent = parent.parent
    return False


def _manifest(store: Store) -> dict[str, Any]:
    manifest = store.read_json("manifest.json")
    if manifest is None:
        raise StorageError(f"{store.root} holds no finished data set.", "Give the folder of a version, as runs/x/v1.")
    return dict(manifest)
