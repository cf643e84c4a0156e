"""The data set by source and modality: what was kept, against the parent version and the published counts, what also
stands in the held-out pairs, and whether the RL set is balanced.

Guarantees: one row a source that has pairs; a comparison that cannot be made (no parent, nothing published, too few
pairs to tell) is None, which no threshold fails. Leakage is told by content: equal files under other names are found.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import duckdb

from umer1_core import query
from umer1_core.store import Store
from umer1_core.upstream import PUBLISHED, published_name
from umer1_core.validation.totals import limit_memory

Row = dict[str, Any]

COMPARED_PAIRS = 100  # of a source; fewer say too little of a share
_THREADS = 2

_HASHES = "unnest([item.content_hash FOR item IN list_concat(query.media, target.media)])"
_HELD_OUT = f"""
CREATE TABLE shown AS SELECT DISTINCT hash FROM (SELECT {_HASHES} AS hash FROM pairs) WHERE hash <> '';
CREATE TABLE asked AS SELECT DISTINCT md5_number(query_key) AS query, md5_number(target_key) AS target FROM pairs;
"""
_LEAKED = f"""
CREATE TABLE leaked_media AS
  SELECT DISTINCT md5_number(pair_id) AS pair FROM (SELECT pair_id, {_HASHES} AS hash FROM pairs) SEMI JOIN shown
  USING (hash);
CREATE TABLE leaked_pairs AS
  SELECT pair FROM (SELECT md5_number(pair_id) AS pair, md5_number(query_key) AS query,
  md5_number(target_key) AS target FROM pairs) SEMI JOIN asked USING (query, target);
"""
_NOTHING_LEAKED = "CREATE TABLE leaked_media (pair UHUGEINT); CREATE TABLE leaked_pairs (pair UHUGEINT);"
_SOURCES = """
SELECT source, any_value(modality) AS modality, count(*) AS pairs,
  count(*) - count(DISTINCT (md5_number(query_key), md5_number(target_key))) AS repeated,
  count(*) FILTER (md5_number(pair_id) IN (FROM leaked_media)) AS leaked_media,
  count(*) FILTER (md5_number(pair_id) IN (FROM leaked_pairs)) AS leaked_pairs,
  count(*) FILTER (md5_number(pair_id) IN (FROM leaked_media) OR md5_number(pair_id) IN (FROM leaked_pairs)) AS leaked
FROM pairs GROUP BY source ORDER BY source
"""
_NO_PAIRS = {"pairs": 0, "repeated": 0, "leaked_media": 0, "leaked_pairs": 0, "leaked": 0}
_PUBLISHED = "SELECT source, count(*) AS pairs FROM {table} GROUP BY source"
_RL = "SELECT source, any_value(modality) AS modality, count(*) AS pairs FROM rl GROUP BY source"


def source_metrics(store: Store, parent: Store | None, held_out: Store | None) -> list[Row]:
    """A row a source: pairs, kept, rejected rows, drift against the parent, repeating pairs, leaked pairs.

    A source that was read and has no pair at all has a row too, from the funnel in the manifest.
    """
    checked = held_out is not None and bool(held_out.entries("pairs"))
    with query.connect(_THREADS) as connection:
        limit_memory(connection)
        query.scan(connection, store, "cold_start", ["source"])
        _find_leaks(connection, store, held_out if checked else None)
        rows = query.rows(connection, _SOURCES)
        kept = _counts(connection, "cold_start")
    before, read = _parent_shares(parent), {row["source"]: row for row in _funnel(store)}
    without = read.keys() - {row["source"] for row in rows}
    rows += [_NO_PAIRS | {"source": source, "modality": read[source]["modality"]} for source in sorted(without)]
    return [
        _source(row, kept.get(row["source"], 0), before.get(row["source"]), read.get(row["source"]), checked)
        for row in rows
    ]


def published_metrics(sources: Iterable[Row]) -> list[Row]:
    """A row a source with published counts: its kept share, the published one, and how many points lie between."""
    pairs: dict[str, int] = {}
    kept: dict[str, int] = {}
    for row in sources:
        name = published_name(row["source"])
        pairs[name] = pairs.get(name, 0) + row["pairs"]
        kept[name] = kept.get(name, 0) + row["kept"]
    found = []
    for name in sorted(pairs.keys() & PUBLISHED.keys()):
        ours, theirs = kept[name] / pairs[name], PUBLISHED[name].kept_share
        off = round(100 * abs(ours - theirs), 2) if pairs[name] >= COMPARED_PAIRS else None
        note = f"kept {ours:.1%} of {pairs[name]:,}, published {theirs:.1%} of {PUBLISHED[name].sampled:,}"
        found.append({"source": name, "points_off_published": off, "note": note})
    return found


def modality_metrics(store: Store) -> list[Row]:
    """A row a modality that the RL set may draw from: its pairs against its equal part, or all it has if less.

    What it may draw from is what publishing recorded in the manifest; without that there are no rows.
    """
    manifest = store.read_json("manifest.json") or {}
    block = int(manifest.get("rl_block") or 1)
    # A source gives whole blocks only.
    recorded = [row | {"available": row["available"] // block * block} for row in manifest.get("rl_table") or []]
    with query.connect(_THREADS) as connection:
        query.scan(connection, store, "rl", ["source", "modality"])
        taken = _by_modality(query.rows(connection, _RL), "pairs")
    possible = {name: count for name, count in _by_modality(recorded, "available").items() if count}
    equal = sum(taken.values()) / len(possible) if possible else 0.0
    return [_modality(name, taken.get(name, 0), count, equal) for name, count in sorted(possible.items())]


def _modality(name: str, taken: int, available: int, equal: float) -> Row:
    fair = min(float(available), equal)
    note = f"{taken:,} pairs of {available:,}; an equal part were {equal:,.0f}"
    return {"modality": name, "rl_balance": round(taken / fair, 4) if fair else 1.0, "note": note}


def _find_leaks(connection: duckdb.DuckDBPyConnection, store: Store, held_out: Store | None) -> None:
    columns = ["pair_id", "source", "modality", "query_key", "target_key"]
    if held_out is None:
        query.scan(connection, store, "pairs", columns)
        connection.execute(_NOTHING_LEAKED)
        return
    query.scan(connection, held_out, "pairs", ["query_key", "target_key", "query", "target"])
    connection.execute(_HELD_OUT)
    query.scan(connection, store, "pairs", [*columns, "query", "target"])
    connection.execute(_LEAKED)


def _source(row: Row, kept: int, before: float | None, read: Row | None, checked: bool) -> Row:
    pairs = row["pairs"]
    share = kept / max(1, pairs)
    comparable = before is not None and pairs >= COMPARED_PAIRS
    parts = [f"{kept:,} of {pairs:,} pairs kept ({share:.1%})" if pairs else "it has no pairs"]
    # A row that stands in the source twice is no loss.
    reasons = {name: count for name, count in (read or {}).get("rejected", {}).items() if name != "duplicate_row"}
    rejected = sum(reasons.values())
    if rejected:
        listed = ", ".join(f"{name} {count:,}" for name, count in sorted(reasons.items(), key=lambda each: -each[1]))
        parts.append(f"{rejected:,} rows rejected: {listed}")
    parts += [f"{before:.1%} in the parent"] if before is not None else []
    if row["leaked"]:
        parts.append(f"{row['leaked_media']:,} show held-out media, {row['leaked_pairs']:,} are held-out pairs")
    return {
        "source": row["source"],
        "modality": row["modality"],
        "pairs": pairs,
        "kept": kept,
        "kept_share": round(share, 6),
        "rejected_fraction": round(rejected / max(1, rejected + pairs), 6),
        "kept_drift": round(abs(share - before), 6) if before is not None and comparable else None,
        "repeated_fraction": round(row["repeated"] / max(1, pairs), 6),
        "leaked_fraction": row["leaked"] / max(1, pairs) if checked else None,
        "note": "; ".join(parts),
    }


def _parent_shares(parent: Store | None) -> dict[str, float]:
    """Kept shares of the parent's sources that have enough pairs to tell, from its manifest's funnel."""
    enough = (row for row in _funnel(parent) if row["pairs"] >= COMPARED_PAIRS)
    return {row["source"]: row["kept"] / row["pairs"] for row in enough}


def _funnel(store: Store | None) -> list[Row]:
    """What publishing wrote of every source; empty where nothing was published."""
    manifest = (store.read_json("manifest.json") if store else None) or {}
    return list(manifest.get("funnel", []))


def _by_modality(rows: Iterable[Row], column: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["modality"]] = counts.get(row["modality"], 0) + int(row[column])
    return counts


def _counts(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, int]:
    return {row["source"]: int(row["pairs"]) for row in query.rows(connection, _PUBLISHED.format(table=table))}
