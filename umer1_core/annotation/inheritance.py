"""Shards of annotations that a new version shares with its parent: nothing in them is asked again.

Guarantees: a shard is shared only where the parent's is of the very same sides, holds every sample that is wanted of
each, and all its rows would be taken over one by one anyway; its attempts stay the parent's.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import TABLES
from umer1_core.annotation.engine import shard_metrics
from umer1_core.annotation.plan import taken_over
from umer1_core.store import Store

# Nobody needs the completions to tell that they are all there.
_COLUMNS = ["side_key", "sample", "annotator", "finish_reason", "round", "reason", "prompt_tokens", "completion_tokens"]
_KEPT = ["side_key", "sample", "kept"]


def inherit_shards(
    store: Store, fingerprints: dict[str, str], annotator: str, samples: int, only_kept: bool, redriven: str = ""
) -> list[str]:
    """Share what can be shared of these shards (each with the fingerprint it must have); returns the others.

    only_kept, redriven: as `plan.open_parent` has them.
    """
    parent = store.parent
    if parent is None:
        return list(fingerprints)
    left = []
    for shard, fingerprint in fingerprints.items():
        theirs = parent.entry("annotations", shard)
        if theirs is None or not _same_sides(store, parent, shard):
            left.append(shard)
            continue
        rows = parent.read_shard("annotations", shard, _COLUMNS)
        kept = parent.read_shard("verdicts", shard, _KEPT) if only_kept and parent.entry("verdicts", shard) else None
        complete = rows.num_rows == _wanted(store, shard, samples)
        if not complete or (only_kept and kept is None) or not taken_over(rows, annotator, kept, redriven).all():
            left.append(shard)
            continue
        store.write_shard("attempts", shard, TABLES["attempts"].empty_table(), fingerprint)
        metrics = shard_metrics(rows, 0, rows.num_rows)
        store.adopt(parent, replace(theirs, fingerprint=fingerprint, metrics=metrics))
    return left


def _same_sides(store: Store, parent: Store, shard: str) -> bool:
    ours, theirs = store.entry("sides", shard), parent.entry("sides", shard)
    return ours is not None and theirs is not None and ours.checksum == theirs.checksum


def _wanted(store: Store, shard: str, samples: int) -> int:
    """How many (side, sample) a shard needs: a side has no more samples than uses."""
    uses = store.read_shard("sides", shard, ["uses"])["uses"]
    each = pc.min_element_wise(pc.max_element_wise(uses, pa.scalar(1, pa.int32())), pa.scalar(samples, pa.int32()))
    return int(pc.sum(each).as_py() or 0)
