"""Whole tables written as numbered shards, made once.

Guarantees: a table is left as it is when all its shards were made with the same fingerprint from the same inputs;
otherwise it is made anew and no shard of another making stays behind. A shard that is known by the digest of its rows
is not made again where this version or its parent has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
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


def write_known(
    store: Store,
    table: str,
    digests: Mapping[str, str],
    make: Callable[[list[str]], Iterable[tuple[str, pa.Table]]],
    parent: Store | None,
    fingerprint: str,
    metrics: Mapping[str, Any],
) -> list[ShardEntry]:
    """Write the shards named in `digests`; one that this version or the parent has with its digest is kept or shared.

    make: gives the rows of the shards it is asked for, each with its name. Without shards there is one empty shard.
    metrics: for every entry; `inputs` stands there (see `finished_table`).
    """
    remove_shards(store, table, (entry.shard for entry in store.entries(table) if entry.shard not in digests))
    shared = {**metrics, "shards": max(len(digests), 1)}
    missing = []
    for shard, digest in digests.items():
        fresh = {**shared, "digest": digest}
        if own := _with_digest(store, table, shard, digest):
            store.write_entry(replace(own, fingerprint=fingerprint, metrics=fresh))
        elif parent and (theirs := _with_digest(parent, table, shard, digest)):
            store.adopt(parent, replace(theirs, fingerprint=fingerprint, metrics=fresh))
        else:
            missing.append(shard)
    for shard, content in make(missing) if missing else ():
        store.write_shard(table, shard, content, fingerprint, **shared, digest=digests[shard])
    if not digests:
        store.write_shard(table, "00000", TABLES[table].empty_table(), fingerprint, **shared)
    return store.entries(table)


def _with_digest(store: Store, table: str, shard: str, digest: str) -> ShardEntry | None:
    entry = store.entry(table, shard)
    return entry if entry and entry.metrics.get("digest") == digest else None


def remove_shards(store: Store, table: str, shards: Iterable[str]) -> None:
    """Entries first: a shard without an entry does not exist."""
    for shard in shards:
        store.delete(f"entries/{table}/{shard}.json")
        store.delete(store.shard_name(table, shard))
