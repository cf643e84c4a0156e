"""Which rows a step trains on: blocks of one source each, drawn with weights, the same for every number of processes.

Guarantees: the batch of a step depends on (rows, seed, step) alone, so a resumed training needs no replay. A source of
weight w gives round(w · rows) rows an epoch; over the epochs none of its rows is used twice more often than another.
Every epoch has its own order and leaves out only an incomplete last batch. The rows that fill no block of their source
come in batches of several sources, spread over the epoch.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from umer1_core.errors import RecipeError, ValidationFailed

_EPOCHS_KEPT = 2  # loading ahead looks into the next epoch while the last one is still trained on
_OF_EPOCH, _OF_SOURCE = 0, 1  # random streams that never coincide


class Batches:
    """Batches of row numbers. One process, or one thread of it, asks; memory is 4 bytes a row and epoch."""

    def __init__(
        self,
        source_codes: NDArray[np.integer],
        usable: NDArray[np.bool_],
        batch_pairs: int,
        block_pairs: int,
        seed: int,
        weights: NDArray[np.float64] | None = None,
        lengths: NDArray[np.integer] | None = None,
    ) -> None:
        """source_codes, usable, lengths (tokens): [rows]; weights: [sources], 1 where not given.

        A batch is smaller only where an epoch has fewer rows. Raises ValidationFailed when an epoch has none.
        """
        self._block, self._seed = block_pairs, seed & 0xFFFF_FFFF_FFFF_FFFF
        self._lengths = np.zeros(len(usable), np.int32) if lengths is None else lengths
        self._rows = _by_source(source_codes, usable)
        self._visits = [_visits(len(r), 1.0 if weights is None else float(weights[c])) for c, r in self._rows.items()]
        total = sum(self._visits)
        if not total:
            raise ValidationFailed("No row can be trained on.", "Look at the rejections, and at the sources' weights.")
        self.batch_pairs = min(batch_pairs, total)
        self.steps_per_epoch = total // self.batch_pairs
        self._epochs: dict[int, NDArray[np.int32]] = {}

    def batch(self, step: int) -> tuple[int, NDArray[np.int32]]:
        """The epoch and the rows of a step, both counted from zero."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self._epochs:
            while len(self._epochs) >= _EPOCHS_KEPT:
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[epoch] = self._order(epoch)
        return epoch, self._epochs[epoch][place]

    def share(self, step: int, rank: int, world: int) -> tuple[int, NDArray[np.int32]]:
        """A process's rows of a step, in the batch's order, with about as many tokens as any other's.

        Counts are equal where `world` divides the batch, and differ by one otherwise.
        """
        epoch, rows = self.batch(step)
        return epoch, rows[deal(self._lengths[rows], rank, world)]

    def _order(self, epoch: int) -> NDArray[np.int32]:
        """[steps, pairs] of an epoch."""
        random = np.random.default_rng([self._seed, _OF_EPOCH, epoch])
        full, short = [], []
        for visits, (code, rows) in zip(self._visits, self._rows.items(), strict=True):
            drawn = self._drawn(code, rows, epoch * visits, visits)
            border = visits - visits % self._block
            full.append(drawn[:border].reshape(-1, self._block))
            short.append(drawn[border:])
        blocks = np.concatenate(full)
        parts = [blocks[random.permutation(len(blocks))].ravel(), *(short[i] for i in random.permutation(len(short)))]
        stream = np.concatenate(parts)[: self.steps_per_epoch * self.batch_pairs].reshape(-1, self.batch_pairs)
        return stream[random.permutation(len(stream))]

    def _drawn(self, code: int, rows: NDArray[np.int32], first: int, count: int) -> NDArray[np.int32]:
        """Entries first to first + count of one shuffled pass over the rows after the other."""
        if not count:
            return rows[:0]
        begin, end = first // len(rows), -(-(first + count) // len(rows))
        passes = [
            rows[np.random.default_rng([self._seed, _OF_SOURCE, code, number]).permutation(len(rows))]
            for number in range(begin, end)
        ]
        return np.concatenate(passes)[first - begin * len(rows) :][:count]


def deal(lengths: NDArray[np.integer], rank: int, world: int) -> NDArray[np.int64]:
    """Places of one hand when rows are dealt to `world` hands, ascending.

    The longest goes first, each to the hand that holds least and has room. (Dealing back and forth never makes up for
    the few very long rows of a batch.) Counts differ by one at most.
    """
    least, extra = divmod(len(lengths), world)
    hands = [(0, 0, hand) for hand in range(world)]  # tokens, rows, hand: a heap
    mine = []
    for place in np.argsort(-lengths.astype(np.int64), kind="stable").tolist():
        tokens, rows, hand = heapq.heappop(hands)
        extra -= rows == least
        mine += [place] if hand == rank else []
        if rows + 1 < least or (rows + 1 == least and extra):
            heapq.heappush(hands, (tokens + int(lengths[place]), rows + 1, hand))
    return np.sort(np.array(mine, np.int64))


def weights_of(sources: Sequence[str], weights: Mapping[str, float], section: str = "training") -> NDArray[np.float64]:
    """[sources], 1 where nothing is said. Raises RecipeError for an unknown source or a weight below zero.

    section: of the recipe, for the message.
    """
    if unknown := sorted(set(weights) - set(sources)):
        raise RecipeError(
            f"{section}.source_weights names {', '.join(unknown)}, which the data set does not have.",
            f"Its sources are {', '.join(sources)}.",
        )
    if negative := sorted(name for name, weight in weights.items() if not 0 <= weight < np.inf):
        raise RecipeError(f"{section}.source_weights of {', '.join(negative)} is no weight.", "Give 0 or more.")
    return np.array([weights.get(name, 1.0) for name in sources], np.float64)


def _by_source(codes: NDArray[np.integer], usable: NDArray[np.bool_]) -> dict[int, NDArray[np.int32]]:
    rows = np.flatnonzero(usable).astype(np.int32)
    rows = rows[np.argsort(codes[rows], kind="stable")]
    found, firsts = np.unique(codes[rows], return_index=True)
    return {int(code): part for code, part in zip(found, np.split(rows, firsts[1:]), strict=False)}


def _visits(rows: int, weight: float) -> int:
    return max(1, round(rows * weight)) if weight else 0
