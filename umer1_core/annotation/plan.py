"""Which sides still have to be asked: what this version has, and what other versions already paid for.

Guarantees: 16 bytes are held of every row that may be taken over, however many there are; the key columns of a data
set are read once per process; a row is taken over only where its whole side_key, its sample and the annotator agree.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow.fs import FSSpecHandler, PyFileSystem

from schemas.tables import TABLES
from umer1_core.annotation.dead_letters import UNNAMED
from umer1_core.errors import StorageError
from umer1_core.store import Store

Taken = dict[tuple[str, int], dict[str, Any]]

IMPORTED = "imported:"  # the annotator of answers that came with a source: they count whoever annotates today

_COLUMNS = {
    "annotations": ["side_key", "sample", "annotator", "finish_reason", "round", "reason"],
    "verdicts": ["side_key", "sample", "kept"],
}
_OPEN_SHARDS = 128  # at a time: the footers of open ones are held
_ENTRY = np.dtype([("key", "<u8"), ("shard", "<u4"), ("row", "<u4")])
_VERDICT = np.dtype([("key", "<u8"), ("sample", "<i4"), ("kept", "?")])
_ROUND = np.dtype([("key", "<u8"), ("round", "<i4")])
_opening = threading.Lock()


def pending_shards(store: Store, fingerprints: dict[str, str]) -> list[str]:
    """The sides shards whose annotations are not there yet, given the fingerprint each must have."""
    finished = {entry.shard: entry.fingerprint for entry in store.entries("annotations")}
    files = {file.rpartition("/")[2] for file in store.fs.find(store.at("annotations"))} if finished else set()
    return [
        shard
        for shard, value in fingerprints.items()
        if finished.get(shard) != value or f"{shard}.parquet" not in files
    ]


def open_parent(parents: list[str], annotator: str, only_kept: bool, redriven: str = "") -> ParentAnnotations:
    """What may be taken over from other versions (their roots; earlier ones come first), read once per process.

    only_kept: a re-annotation takes over what passed the filters and asks again for the rest, with another seed.
    redriven: of the dead letters only those of this reason are asked again; the others are taken over as they are.
    """
    with _opening:  # shards in progress ask at the same time; one of them reads
        return _open(tuple(parents), annotator, only_kept, redriven)


@lru_cache(maxsize=2)
def _open(parents: tuple[str, ...], annotator: str, only_kept: bool, redriven: str) -> ParentAnnotations:
    return ParentAnnotations([Store(root) for root in parents], annotator, only_kept, redriven)


class ParentAnnotations:
    """An index over annotations of other versions, looked up by side_key a shard at a time. Use `open_parent`."""

    def __init__(self, stores: Sequence[Store], annotator: str, only_kept: bool, redriven: str = "") -> None:
        self._shards: list[tuple[Store, str]] = []
        index, rounds = _Index(), _Rounds()
        for store in stores:
            kept = {shard: _verdicts(table) for shard, table in _scan(store, "verdicts")} if only_kept else {}
            for shard, table in _scan(store, "annotations"):
                rows = _shard_rows(table, annotator, kept.pop(shard, None), redriven)
                index.add(len(self._shards), rows)
                self._shards.append((store, shard))
                if only_kept:
                    rounds.add(rows)
        self._entries = index.finished()
        self._rounds = rounds.finished()

    def __len__(self) -> int:
        """How many annotations may be taken over."""
        return len(self._entries)

    def covers(self, sides: pa.Table, samples: int) -> bool:
        """Whether nothing is left to ask of these sides (side_key and uses)."""
        prefixes = _prefixes(sides["side_key"])
        wanted = np.minimum(np.maximum(sides["uses"].to_numpy(), 1), samples)
        left = np.searchsorted(self._entries["key"], prefixes, "left")
        right = np.searchsorted(self._entries["key"], prefixes, "right")
        return bool((right - left >= wanted).all())

    def for_sides(self, side_keys: Collection[str]) -> tuple[Taken, dict[str, int]]:
        """(rows to take over by side_key and sample, round to ask again in by side_key) for the sides of a shard."""
        keys = pa.array(list(side_keys), pa.string())
        prefixes = _prefixes(keys)
        rounds = self._rounds[_positions(self._rounds["key"], prefixes)]
        by_prefix = dict(zip(rounds["key"].tolist(), rounds["round"].tolist(), strict=True))
        again = {
            key: by_prefix[prefix]
            for key, prefix in zip(keys.to_pylist(), prefixes.tolist(), strict=True)
            if prefix in by_prefix
        }
        return {(row["side_key"], row["sample"]): row for row in self._read(keys, prefixes)}, again

    def _read(self, keys: pa.StringArray, prefixes: np.ndarray) -> Iterator[dict[str, Any]]:
        found = self._entries[_positions(self._entries["key"], prefixes)]
        for number in np.unique(found["shard"]).tolist():
            store, shard = self._shards[number]
            table = store.read_shard("annotations", shard)
            table = table.take(pa.array(np.sort(found["row"][found["shard"] == number])))
            yield from table.filter(pc.is_in(table["side_key"], value_set=keys)).to_pylist()


def needs_reannotation(store: Store, annotator: str) -> bool:
    """Whether any side of a finished version was rejected, failed, or asked of another annotator than today's."""
    for entry in store.entries("verdicts"):
        if not pc.all(store.read_shard("verdicts", entry.shard, ["kept"])["kept"]).as_py():
            return True
        by = store.read_shard("annotations", entry.shard, ["annotator"])["annotator"]
        if not pc.all(pc.or_(pc.equal(by, annotator), pc.starts_with(by, IMPORTED))).as_py():
            return True
    return False


@dataclass(frozen=True, slots=True)
class _ShardRows:
    """Of the rows of a shard that today's annotator was asked: where they stand and whether they are taken over."""

    key: np.ndarray
    sample: np.ndarray
    round: np.ndarray
    row: np.ndarray
    taken: np.ndarray


def _scan(store: Store, table: str) -> Iterator[tuple[str, pa.Table]]:
    """The key columns of each shard. Opening thousands of shards one by one costs more than reading them."""
    files = store.files(table)
    filesystem = None if store.local else PyFileSystem(FSSpecHandler(store.fs))
    try:
        for first in range(0, len(files), _OPEN_SHARDS):
            part = files[first : first + _OPEN_SHARDS]
            shards = ds.dataset(part, schema=TABLES[table], format="parquet", filesystem=filesystem)
            batches = shards.scanner(columns=_COLUMNS[table]).scan_batches()
            for path, found in groupby(batches, lambda batch: str(batch.fragment.path)):
                content = pa.Table.from_batches([batch.record_batch for batch in found])
                yield path.rpartition("/")[2].removesuffix(".parquet"), content
    except (pa.ArrowInvalid, FileNotFoundError) as error:
        raise StorageError(
            f"The table {store.at(table)} cannot be read: {error}.",
            "Delete the damaged shard together with its file under entries/: what it held is asked again.",
        ) from error


def _verdicts(table: pa.Table) -> np.ndarray:
    rows = np.empty(table.num_rows, _VERDICT)
    rows["key"], rows["sample"], rows["kept"] = _prefixes(table["side_key"]), _samples(table), _mask(table["kept"])
    return rows


def taken_over(table: pa.Table, annotator: str, verdicts: pa.Table | None, redriven: str) -> np.ndarray:
    """Which rows of a shard of annotations are taken over as they are, given its verdicts where only the kept ones."""
    found = _shard_rows(table, annotator, None if verdicts is None else _verdicts(verdicts), redriven)
    mask = np.zeros(table.num_rows, bool)
    mask[found.row[found.taken]] = True
    return mask


def _shard_rows(table: pa.Table, annotator: str, verdicts: np.ndarray | None, redriven: str) -> _ShardRows:
    failed = _mask(pc.equal(table["finish_reason"], "error"))
    keys, samples = _prefixes(table["side_key"]), _samples(table)
    taken = ~failed
    if redriven:
        reason = "" if redriven == UNNAMED else redriven
        taken |= _mask(pc.not_equal(pc.fill_null(table["reason"], ""), reason))
    if verdicts is not None:
        taken &= _kept(keys, samples, verdicts)
    current = pc.or_(pc.equal(table["annotator"], annotator), pc.starts_with(table["annotator"], IMPORTED))
    where = np.flatnonzero(_mask(current))
    round_ = pc.fill_null(table["round"], 0).to_numpy()
    return _ShardRows(keys[where], samples[where], round_[where], where.astype(np.uint32), taken[where])


def _kept(keys: np.ndarray, samples: np.ndarray, verdicts: np.ndarray) -> np.ndarray:
    if np.array_equal(keys, verdicts["key"]) and np.array_equal(samples, verdicts["sample"]):
        return np.asarray(verdicts["kept"])
    good = verdicts[verdicts["kept"]]
    kept = set(zip(good["key"].tolist(), good["sample"].tolist(), strict=True))
    rows = zip(keys.tolist(), samples.tolist(), strict=True)
    return np.fromiter((row in kept for row in rows), bool, len(keys))


class _Index:
    """Entries of what may be taken over, sorted by key; of equal (side_key, sample) the first that was added."""

    def __init__(self) -> None:
        self._entries = [np.empty(0, _ENTRY)]
        self._samples = [np.empty(0, np.int32)]

    def add(self, number: int, rows: _ShardRows) -> None:
        part = np.empty(int(rows.taken.sum()), _ENTRY)
        part["key"], part["shard"], part["row"] = rows.key[rows.taken], number, rows.row[rows.taken]
        self._entries.append(part)
        self._samples.append(rows.sample[rows.taken])

    def finished(self) -> np.ndarray:
        entries, samples = np.concatenate(self._entries), np.concatenate(self._samples)
        self._entries, self._samples = [], []
        order = np.lexsort((samples, entries["key"]))  # stable: earlier roots stay first
        entries, samples = entries[order], samples[order]
        return entries[_firsts(entries["key"]) | _firsts(samples)]


class _Rounds:
    """The round in which a side is asked again: one more than the last in which an answer was not kept."""

    def __init__(self) -> None:
        self._parts = [np.empty(0, _ROUND)]

    def add(self, rows: _ShardRows) -> None:
        part = np.empty(int((~rows.taken).sum()), _ROUND)
        part["key"], part["round"] = rows.key[~rows.taken], rows.round[~rows.taken] + 1
        self._parts.append(part)

    def finished(self) -> np.ndarray:
        parts = np.concatenate(self._parts)
        parts = parts[np.lexsort((-parts["round"], parts["key"]))]
        return parts[_firsts(parts["key"])]


def _firsts(values: np.ndarray) -> np.ndarray:
    """Where a value differs from the one before it."""
    first = np.ones(len(values), bool)
    first[1:] = values[1:] != values[:-1]
    return first


def _positions(sorted_keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where the wanted keys stand in a sorted array that may hold a key several times."""
    wanted = np.unique(wanted)
    left = np.searchsorted(sorted_keys, wanted, "left")
    right = np.searchsorted(sorted_keys, wanted, "right")
    starts, counts = left[right > left], (right - left)[right > left]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray(np.repeat(starts, counts) + within)


def _prefixes(keys: pa.ChunkedArray | pa.StringArray) -> np.ndarray:
    """The first 64 bits of side_keys, which are 32 hex digits."""
    text = "".join(keys.to_pylist())
    return np.frombuffer(bytes.fromhex(text), ">u8").reshape(-1, 2)[:, 0].astype(np.uint64)


def _samples(table: pa.Table) -> np.ndarray:
    """Shards of the first schema version have no samples: each side was asked once."""
    return np.asarray(pc.fill_null(table["sample"], 0).to_numpy())


def _mask(values: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(values, False).to_numpy(zero_copy_only=False), bool)
