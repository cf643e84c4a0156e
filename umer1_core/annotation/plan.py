"""Which sides still have to be asked: what this version has, and what its parent already paid for."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from umer1_core.store import Store


def pending_shards(store: Store, fingerprints: dict[str, str]) -> list[str]:
    """The sides shards whose annotations are not there yet, given the fingerprint each must have."""
    return [shard for shard, value in fingerprints.items() if store.entry("annotations", shard, value) is None]


class ParentAnnotations:
    """Annotations of the parent version that may be taken over, looked up by side_key a shard at a time.

    only_kept: a re-annotation takes over what passed the filters and asks again for the rest, with another seed.
    """

    def __init__(self, parent: Store, annotator: str, only_kept: bool) -> None:
        self.parent = parent
        current = self._keys(annotator, only_kept)
        self._shards = {shard: keys for shard, keys in current.items() if keys}
        self._rounds = {} if not only_kept else self._asked_again(annotator)

    def for_sides(self, side_keys: set[str]) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
        """(rows to take over, round to ask again in) for the sides of a shard."""
        rows: dict[str, dict[str, Any]] = {}
        for shard, keys in self._shards.items():
            wanted = keys & side_keys
            if wanted:
                table = self.parent.read_shard("annotations", shard)
                mask = pc.is_in(table["side_key"], value_set=pa.array(list(wanted)))
                rows.update({row["side_key"]: row for row in table.filter(mask).to_pylist()})
        rounds = {key: self._rounds[key] for key in side_keys & self._rounds.keys() if key not in rows}
        return rows, rounds

    def _keys(self, annotator: str, only_kept: bool) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for entry in self.parent.entries("annotations"):
            table = self.parent.read_shard("annotations", entry.shard, ["side_key", "annotator", "finish_reason"])
            good = pc.and_(pc.equal(table["annotator"], annotator), pc.not_equal(table["finish_reason"], "error"))
            keys = set(table.filter(good)["side_key"].to_pylist())
            if only_kept and self.parent.entry("verdicts", entry.shard) is not None:
                verdicts = self.parent.read_shard("verdicts", entry.shard, ["side_key", "kept"])
                keys &= set(verdicts.filter(verdicts["kept"])["side_key"].to_pylist())
            found[entry.shard] = keys
        return found

    def _asked_again(self, annotator: str) -> dict[str, int]:
        rounds: dict[str, int] = {}
        kept = set().union(*self._shards.values()) if self._shards else set()
        for entry in self.parent.entries("annotations"):
            table = self.parent.read_shard("annotations", entry.shard, ["side_key", "annotator", "round"])
            same = table.filter(pc.equal(table["annotator"], annotator))
            pairs = zip(same["side_key"].to_pylist(), same["round"].to_pylist(), strict=True)
            rounds.update({key: round_ + 1 for key, round_ in pairs if key not in kept})
        return rounds


def needs_reannotation(store: Store, annotator: str) -> bool:
    """Whether any side of a finished version was rejected, failed, or asked of another annotator than today's."""
    for entry in store.entries("verdicts"):
        if not pc.all(store.read_shard("verdicts", entry.shard, ["kept"])["kept"]).as_py():
            return True
        by = store.read_shard("annotations", entry.shard, ["annotator"])["annotator"]
        if pc.any(pc.not_equal(by, annotator)).as_py():
            return True
    return False
