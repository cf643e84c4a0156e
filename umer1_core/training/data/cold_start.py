"""The `cold_start` table for training: an index in memory, rows on demand, and a slice that is never trained on.

Guarantees: in memory are a source's number and a mark for each row (3 bytes), and row groups up to a bound in bytes.
The slice depends on (data set, seed, size) alone; no pair whose query side equals one of its query sides is trained on.
Targets may be shared: they are the candidates of a retrieval (labels of a classification, as in MMEB).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from umer1_core.backbone.collate import Row
from umer1_core.errors import ValidationFailed
from umer1_core.pairs import Side, draw_priority, side_from_record
from umer1_core.store import Store
from umer1_core.training.data.pair_table import PairTable

TABLE = "cold_start"
COLUMNS = (
    "pair_id", "source", "modality", "query_key", "target_key",
    "query_prompt", "query_media", "query_response", "target_prompt", "target_media", "target_response", "negatives",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PairRows:
    """A pair ready for the model. negatives: prompts of sides that are known to be wrong."""

    pair_id: str
    source: str
    query: Row
    target: Row
    query_key: str
    target_key: str
    negatives: tuple[Row, ...] = ()


class ColdStart(PairTable):
    """A store's `cold_start` table.

    trainable: [rows] bool; held_out: row numbers of the slice, smallest draw first.
    """

    def __init__(self, store: Store, held_out: int = 0, seed: int = 0, rl_apart: bool = False) -> None:
        """rl_apart: rows whose query also stands in the table `rl` are left to it.

        Raises ValidationFailed when no row is left to train on, StorageError when a shard cannot be read.
        """
        super().__init__(store, TABLE, COLUMNS)
        self.held_out = self._draw(held_out, seed)
        self.trainable = self._outside_of(self.held_out)
        if rl_apart:
            self.trainable &= self._outside_of_rl()
        if not self.trainable.any():
            raise ValidationFailed(
                f"{store.root} has no rows to train on: {len(self)} in all, {len(self.held_out)} of them held out.",
                "Build and validate a larger data set first, or hold fewer pairs out.",
            )

    def held_out_rows(self) -> list[dict[str, Any]]:
        """The slice as records."""
        return self.rows(self.held_out)

    def texts(self) -> Iterator[str]:
        """Every prompt and response, for a tokenizer."""
        columns = ["query_prompt", "query_response", "target_prompt", "target_response"]
        for row in self.store.iterate(TABLE, columns):
            yield from row.values()

    def _draw(self, count: int, seed: int) -> NDArray[np.int64]:
        """The rows with the smallest draw priority."""
        if not count or not len(self):
            return np.zeros(0, np.int64)
        priorities = np.concatenate([
            np.array([draw_priority(seed, name) for name in column.to_pylist()], np.uint64)
            for column in self.column("pair_id")
        ])  # fmt: skip
        smallest = np.argpartition(priorities, count)[:count] if count < len(priorities) else np.arange(len(priorities))
        return smallest[np.argsort(priorities[smallest], kind="stable")].astype(np.int64)

    def _outside_of_rl(self) -> NDArray[np.bool_]:
        """True for rows whose query side is none of the RL set's."""
        keys = pa.chunked_array(list(self.column("query_key")))
        wanted = [row["query_key"] for row in self.store.iterate("rl", ["query_key"])]
        return ~pc.is_in(keys, value_set=pa.array(wanted, pa.string())).to_numpy()

    def _outside_of(self, held_out: NDArray[np.int64]) -> NDArray[np.bool_]:
        """True for rows whose query side is none of the slice's."""
        if not len(held_out):
            return np.ones(len(self), np.bool_)
        keys = pa.chunked_array(list(self.column("query_key")))
        shown = pc.is_in(keys, value_set=keys.take(held_out).combine_chunks())
        return ~shown.to_numpy()


def negative_sides(record: dict[str, Any], most: int) -> list[Side]:
    """A row's first hard negatives: other than its own sides by content, each once."""
    found: dict[str, Side] = {}
    for side in map(side_from_record, (record.get("negatives") or ()) if most else ()):
        if side.key not in (record["query_key"], record["target_key"]):
            found.setdefault(side.key, side)
    return list(found.values())[:most]
