"""Tokens of every row before training, from texts and the media's sizes: no pixel is decoded.

Guarantees: a side's count is `len(Encoder.encode(...))` to the token; a row that is too long, or whose text cannot be
used, is known before the first step. Counts are kept by shard under the training's folder, and made again only when the
shard, the tokenizer, the template or the pixel limits change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from umer1_core.errors import BadInput, StorageError
from umer1_core.pairs import media_from_record
from umer1_core.sft.data.token_count import TokenCounter
from umer1_core.store import ShardEntry, Store, fingerprint
from umer1_core.template import training_prompt
from umer1_core.training.data.cold_start import ColdStart, negative_sides
from umer1_core.training.data.pair_table import Rejection

Progress = Callable[[int, int], None]

_ROWS_AT_A_TIME = 512
# Reasons that hold whatever the storage does meanwhile: the row is left out. Others are told when it is loaded.
_CERTAIN = {"placeholder_in_text", "no_disc_emb", "no_gen_emb", "media_unusable"}
_KEY = b"umer1.lengths"
_SCHEMA = pa.schema(
    [
        ("query", pa.int32()),
        ("target", pa.int32()),
        ("negatives", pa.int32()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens by row: query, target [rows], and the negatives that go with them [rows]; int32.

    A side whose media's size cannot be read counts 0: loading will say why. unusable: by row, the reason and detail of
    what no reading can change.
    """

    query: NDArray[np.int32]
    target: NDArray[np.int32]
    negatives: NDArray[np.int32]
    unusable: dict[int, tuple[str, str]]

    @property
    def of_pairs(self) -> NDArray[np.int32]:
        """[rows], what a pair costs."""
        return self.query + self.target + self.negatives

    def usable(self, max_tokens: int) -> NDArray[np.bool_]:
        """[rows], False where a side is too long or cannot be used."""
        fits = np.maximum(self.query, self.target) <= max_tokens
        fits[list(self.unusable)] = False
        return fits

    def rejections(self, data: ColdStart, max_tokens: int) -> list[Rejection]:
        """The rows that `usable` leaves out, with their reasons, in order; rows of the held-out slice too."""
        numbers = np.flatnonzero(~self.usable(max_tokens))
        return [
            Rejection(row["pair_id"], row["source"], *self._why(int(number), max_tokens))
            for first in range(0, len(numbers), _ROWS_AT_A_TIME)
            for number, row in zip(
                numbers[first : first + _ROWS_AT_A_TIME],
                data.rows(numbers[first : first + _ROWS_AT_A_TIME]),
                strict=True,
            )
        ]

    def _why(self, number: int, max_tokens: int) -> tuple[str, str]:
        if number in self.unusable:
            return self.unusable[number]
        role, tokens = max(("query", self.query[number]), ("target", self.target[number]), key=lambda side: side[1])
        return "too_many_tokens", f"{role}: {tokens} tokens, the limit is {max_tokens}"


def measure_lengths(
    data: ColdStart,
    counter: TokenCounter,
    folder: Path,
    negatives: int = 0,
    rank: int = 0,
    world: int = 1,
    on_progress: Progress | None = None,
) -> None:
    """Count the shards of this rank that are not counted yet, each a file `lengths/<shard>.parquet` in `folder`.

    negatives: how many of a row's go with it; on_progress: called with (rows done, rows) of this rank.
    """
    mine = data.entries[rank::world]
    done, total = 0, sum(entry.rows for entry in mine)
    for entry in mine:
        if _read(folder, entry, _key(entry, counter, negatives)) is None:
            _write(folder, entry, _key(entry, counter, negatives), _count(data.store, entry, counter, negatives))
        done += entry.rows
        if on_progress is not None:
            on_progress(done, total)


def load_lengths(data: ColdStart, counter: TokenCounter, folder: Path, negatives: int = 0) -> Lengths:
    """The counts of all shards. Raises StorageError where `measure_lengths` has not made one."""
    parts = [_read(folder, entry, _key(entry, counter, negatives)) for entry in data.entries]
    missing = [entry.shard for entry, part in zip(data.entries, parts, strict=True) if part is None]
    if missing:
        raise StorageError(
            f"{folder}/lengths lacks {len(missing)} shards, the first {missing[0]}.",
            "The training's folder must be one that all processes share.",
        )
    table = pa.concat_tables([_SCHEMA.empty_table(), *(part for part in parts if part is not None)])
    bad = np.flatnonzero(table["reason"].is_valid().to_numpy())
    reasons = table.select(["reason", "detail"]).take(bad).to_pylist()
    return Lengths(
        table["query"].to_numpy(),
        table["target"].to_numpy(),
        table["negatives"].to_numpy(),
        {int(number): (row["reason"], row["detail"]) for number, row in zip(bad, reasons, strict=True)},
    )


def _count(store: Store, entry: ShardEntry, counter: TokenCounter, negatives: int) -> pa.Table:
    columns = ["query_key", "target_key", "negatives"]
    columns += [f"{role}_{part}" for role in ("query", "target") for part in ("prompt", "media", "response")]
    shard = store.read_shard(entry.table, entry.shard, columns)
    rows: list[dict[str, Any]] = []
    for first in range(0, shard.num_rows, _ROWS_AT_A_TIME):
        rows += _count_rows(shard.slice(first, _ROWS_AT_A_TIME).to_pylist(), counter, negatives)
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _count_rows(records: list[dict[str, Any]], counter: TokenCounter, negatives: int) -> list[dict[str, Any]]:
    roles = {}
    for role in ("query", "target"):
        sides = [(r[f"{role}_prompt"], _media(r[f"{role}_media"]), r[f"{role}_response"]) for r in records]
        roles[role] = counter.count(sides)
    hard = [negative_sides(record, negatives) for record in records]
    tokens = iter(counter.count([(training_prompt(side.text), side.media, "") for sides in hard for side in sides]))
    counts = []
    for query, target, own in zip(roles["query"], roles["target"], hard, strict=True):
        beside = sum(_known(next(tokens)) for _ in own)
        sizes = {"query": _known(query), "target": _known(target), "negatives": beside}
        counts.append(sizes | _problem(query, target))
    return counts


def _known(count: int | BadInput) -> int:
    return count if isinstance(count, int) else 0


def _problem(query: int | BadInput, target: int | BadInput) -> dict[str, str]:
    for role, count in (("query", query), ("target", target)):
        if isinstance(count, BadInput) and count.reason in _CERTAIN:
            return {"reason": count.reason, "detail": f"{role}: {count.detail}"}
    return {}


def _media(records: list[dict[str, Any]]) -> tuple[Any, ...]:
    return tuple(map(media_from_record, records))


def _key(entry: ShardEntry, counter: TokenCounter, negatives: int) -> str:
    return fingerprint(entry.checksum, counter.fingerprint, negatives)


def _path(entry: ShardEntry) -> str:
    return f"lengths/{entry.shard}.parquet"


def _read(folder: Path, entry: ShardEntry, key: str) -> pa.Table | None:
    """The counts of a shard made with `key`; None where there are none, or none that can be read."""
    try:
        table = pq.read_table(folder / _path(entry))
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    return table if (table.schema.metadata or {}).get(_KEY) == key.encode() else None


def _write(folder: Path, entry: ShardEntry, key: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({_KEY: key.encode()}), sink, compression="zstd")
    Store(str(folder)).write_bytes(_path(entry), sink.getvalue().to_pybytes())
