"""Whole tables written as numbered shards, made once.

Guarantees: a table is left as it is when all its shards were made with the same fingerprint from the same inputs;
otherwise it is written anew and no shard of another making stays behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from schemas.tables import TABLES
from umer1_core.store import ShardEntry, Store, content_hash


def inputs_hash(store: Store, tables: Sequence[str]) -> str:
    """The identity of everything in `tables`."""
    return content_hash(entry for table in tables for entry in store.entries(table))


def finished_table(store: Store, table: str, fingerprint: str, inputs: str) -> list[ShardEntry] | None:
    """The shards of a table that is complete and made with `fingerprint` from `inputs`; None otherwise."""
    entries = store.entries(table)
    if not entries or any(e.fingerprint != fingerprint or e.metrics.get("inputs") != inputs for e in entries):
        return None
    complete = all(e.metrics["shards"] == len(entries) and store.exists(f"{table}/{e.shard}.parquet") for e in entries)
    return entries if complete else None


def write_table(
    store: Store, table: str, parts: Iterable[pa.Table], count: int, fingerprint: str, inputs: str
) -> list[ShardEntry]:
    """Write `count` parts as the shards 00000, 00001, …; without rows there is one empty shard."""
    remove_shards(store, table, [entry.shard for entry in store.entries(table)])
    metrics: dict[str, Any] = {"inputs": inputs, "shards": max(count, 1)}
    entries = [
        store.write_shard(table, f"{number:05d}", part, fingerprint, **metrics) for number, part in enumerate(parts)
    ]
    return entries or [store.write_shard(table, "00000", TABLES[table].empty_table(), fingerprint, **metrics)]


def remove_shards(store: Store, table: str, shards: Iterable[str]) -> None:
    """Entries first: a shard without an entry does not exist."""
    for shard in shards:
        store.delete(f"entries/{table}/{shard}.json")
        store.delete(store.shard_name(table, shard))
