"""Where every row went, by source.

Guarantees: counted over the shards themselves, except for what never became a row (read, not drawn), which the
sampling stage counted; `check_totals` holds the two against each other.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from umer1_core.publishing.judged import collect_refusals, judge_pairs
from umer1_core.query import connect, rows, scan
from umer1_core.store import Store

_COLUMNS = {
    "pairs": ["pair_id", "source", "modality", "query_key", "target_key"],
    "rejections": ["source", "reason"],
    "verdicts": ["side_key", "kept", "reasons"],
    "cold_start": ["source"],
    "rl": ["source"],
}
_PAIRS = """
SELECT source, any_value(modality) AS modality, count(*) AS pairs, count(*) FILTER (kept) AS kept,
       count(*) FILTER (NOT kept) AS dropped_pairs
FROM judged GROUP BY source
"""
_DROPPED = "SELECT source, reason, count(*) AS n FROM refusals GROUP BY ALL"


@dataclass(frozen=True, slots=True)
class FunnelRow:
    """One source. `dropped`: pairs with that reason on either side; a pair may count under several."""

    source: str
    modality: str
    read: int
    not_drawn: int
    rejected: dict[str, int]
    pairs: int
    kept: int
    dropped: dict[str, int]
    dropped_pairs: int
    cold_start: int
    rl: int


def funnel(store: Store) -> list[FunnelRow]:
    """Every source that was read, by name."""
    sampled = _sampled(store)
    with connect() as connection:
        for table in ("pairs", "rejections", "verdicts", "cold_start", "rl"):
            scan(connection, store, table, _COLUMNS[table])
        judge_pairs(connection)
        collect_refusals(connection)
        pairs = {row["source"]: row for row in rows(connection, _PAIRS)}
        dropped = _by_reason(rows(connection, _DROPPED))
        rejected = _by_reason(rows(connection, "SELECT source, reason, count(*) AS n FROM rejections GROUP BY ALL"))
        published = {table: _by_source(connection, table) for table in ("cold_start", "rl")}
    nothing: dict[str, Any] = {"modality": "", "read": 0, "not_drawn": 0, "pairs": 0, "kept": 0, "dropped_pairs": 0}
    return [
        FunnelRow(
            rejected=rejected[source],
            dropped=dropped[source],
            cold_start=published["cold_start"][source],
            rl=published["rl"][source],
            **(nothing | {"source": source} | sampled.get(source, {}) | pairs.get(source, {})),
        )
        for source in sorted(sampled.keys() | pairs.keys())
    ]


def check_totals(funnel_rows: Sequence[FunnelRow]) -> list[str]:
    """The identities that do not hold, each as a sentence; none when every row is accounted for."""
    broken = []
    for row in funnel_rows:
        rejected = sum(row.rejected.values())
        if row.read != row.not_drawn + rejected + row.pairs:
            broken.append(
                f"{row.source}: {row.read} rows read, but {row.not_drawn} not drawn + {rejected} rejected "
                f"+ {row.pairs} pairs"
            )
        if row.pairs != row.kept + row.dropped_pairs:
            broken.append(f"{row.source}: {row.pairs} pairs, but {row.kept} kept + {row.dropped_pairs} dropped")
        if row.kept != row.cold_start:
            broken.append(f"{row.source}: {row.kept} pairs kept, but {row.cold_start} in cold_start")
    return broken


def _sampled(store: Store) -> dict[str, dict[str, Any]]:
    """What sampling counted, by the source its rows are called."""
    sampled: dict[str, dict[str, Any]] = {}
    for entry in store.entries("rejections"):
        for source, counts in entry.metrics["by_source"].items():
            modality = counts.get("modality", entry.metrics["modality"])
            row = sampled.setdefault(source, {"modality": modality, "read": 0, "not_drawn": 0})
            for name in ("read", "not_drawn"):  # two files of released data may hold rows of one source
                row[name] += counts[name]
    return sampled


def _by_source(connection: duckdb.DuckDBPyConnection, table: str) -> Counter[str]:
    counted = rows(connection, f"SELECT source, count(*) AS n FROM {table} GROUP BY source")
    return Counter({row["source"]: int(row["n"]) for row in counted})


def _by_reason(counted: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    reasons: dict[str, dict[str, int]] = defaultdict(dict)
    for row in sorted(counted, key=lambda row: str(row["reason"])):
        reasons[row["source"]][row["reason"]] = int(row["n"])
    return reasons
