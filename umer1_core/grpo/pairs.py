"""The `rl` table for training, in blocks of N pairs, and the order in which TRL sees their sides.

A block is of one source; only the pairs that fill no block of their own source come in blocks of several, see
`training.data.batches`. Guarantees: a step's block depends on (table, seed, step) alone, so a resumed run needs no
replay; every side's group is asked for exactly once a block; the rollouts of a pair's two sides belong to the same
process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from torch.utils.data import Sampler

from umer1_core.errors import Fatal, ValidationFailed
from umer1_core.store import Store
from umer1_core.training.data.batches import Batches, weights_of
from umer1_core.training.data.cold_start import ColdStart
from umer1_core.training.data.pair_table import PairTable

TABLE = "rl"
COLUMNS = (
    "pair_id", "source", "modality", "query_key", "target_key",
    "query_prompt", "query_media", "target_prompt", "target_media",
)  # fmt: skip
QUERY, TARGET = 0, 1


class RLPairs(PairTable):
    """A store's `rl` table. trainable: [rows] bool, False where the query is one of `held_out`, which SFT kept out too.

    held_out: the slice's rows of `cold_start`, to evaluate on.
    """

    def __init__(self, store: Store, held_out: int = 0, seed: int = 0) -> None:
        """held_out, seed: of SFT's slice. Raises ValidationFailed when no row is left to train on."""
        super().__init__(store, TABLE, COLUMNS)
        cold_start = ColdStart(store, held_out, seed)
        self.held_out = cold_start.held_out_rows()
        keys = pa.array([record["query_key"] for record in self.held_out], pa.string())
        shown = [pc.is_in(column, value_set=keys).to_numpy(zero_copy_only=False) for column in self.column("query_key")]
        self.trainable = ~np.concatenate([np.zeros(0, np.bool_), *shown])
        if not self.trainable.any():
            raise ValidationFailed(
                f"{store.root} has no rows for reinforcement learning: {len(self)} in all.",
                "Set publishing.rl_pairs and publish the data set again.",
            )


@dataclass(frozen=True, slots=True)
class BlockOrder:
    """Which rows a block has, and where TRL's rows stand in it.

    TRL's rows are sides, each `group` times, rank by rank: q1×G, t1×G, q2×G, t2×G and so on, so that a part of a
    process's rows has as many of either side.
    """

    batches: Batches
    pairs: int
    group: int
    world: int

    def rows(self, block: int) -> NDArray[np.int32]:
        """The numbers of a block's rows, in rank order."""
        return self.batches.batch(block)[1]

    def share(self, block: int, rank: int) -> NDArray[np.int32]:
        """The rows of a process."""
        return np.split(self.rows(block), self.world)[rank]

    def epoch(self, block: int) -> int:
        return self.batches.batch(block)[0]

    def indices(self, block: int) -> list[int]:
        """TRL's rows of a block: `side_index` of each, `group` times."""
        rows = self.rows(block).tolist()
        return [side_index(row, side) for row in rows for side in (QUERY, TARGET) for _ in range(self.group)]


def side_index(row: int, side: int) -> int:
    """TRL's number of a side."""
    return 2 * row + side


def row_and_side(index: int) -> tuple[int, int]:
    """The inverse of `side_index`."""
    return index // 2, index % 2


def make_order(
    pairs: RLPairs, block_pairs: int, group: int, world: int, seed: int, weights: Mapping[str, float] | None = None
) -> BlockOrder:
    """weights: how often an epoch visits a source's pairs, 1 where it is not named.

    Raises Fatal where there are fewer pairs than a block has, or processes cannot share one; RecipeError for weights
    of sources that the table does not have.
    """
    if block_pairs % world:
        raise Fatal(
            f"A block of {block_pairs} pairs cannot be shared by {world} processes.",
            "Set grpo.block_pairs to a multiple of the number of processes.",
        )
    visits = weights_of(pairs.sources, weights or {}, "grpo")
    usable = int((pairs.trainable & (visits[pairs.source_codes] > 0)).sum())
    if usable < block_pairs:
        raise Fatal(
            f"The RL set has {usable} pairs to train on, a block has {block_pairs}.",
            "Lower grpo.block_pairs, or raise publishing.rl_pairs.",
        )
    batches = Batches(pairs.source_codes, pairs.trainable, block_pairs, block_pairs, seed, visits)
    if batches.batch_pairs < block_pairs:
        raise Fatal(
            f"With these weights an epoch has {batches.batch_pairs} pairs, a block has {block_pairs}.",
            "Lower grpo.block_pairs, or raise grpo.source_weights.",
        )
    return BlockOrder(batches, block_pairs, group, world)


class PairBlockSampler(Sampler[int]):
    """TRL's sampler: whole blocks one after the other, each as often as TRL asks before it needs the next rollouts."""

    def __init__(self, order: BlockOrder, blocks: int, repeats: int) -> None:
        self._order, self._blocks, self._repeats = order, blocks, repeats

    def __iter__(self) -> Iterator[int]:
        for block in range(self._blocks):
            indices = self._order.indices(block)
            for _ in range(self._repeats):
                yield from indices

    def __len__(self) -> int:
        return self._blocks * self._repeats * 2 * self._order.pairs * self._order.group
