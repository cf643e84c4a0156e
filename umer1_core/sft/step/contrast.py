"""The contrastive terms over the whole step, on leaves: every process computes all of it (UME-R1 equations 1 and 2).

Embeddings of all processes are gathered without a graph and become leaves; the N x N losses are computed whole on each
process, and each keeps the gradient of its own rows. So no collective has to be differentiated, and N negatives are
true negatives on any number of processes. For 1,024 pairs of width 1,536 the leaves take 25 MB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from umer1_core.sft.parallel.face import Parallel
from umer1_core.training.losses import Direction, contrastive, cross_mode, equal_entries, in_batch_hits

_ROWS = 256  # queries whose scores with all targets are in memory at a time


@dataclass(frozen=True, slots=True)
class ContrastSettings:
    """negatives_pool: pairs that are each other's negatives, 0 for the whole step."""

    direction: Direction = "both"
    mask_equal: bool = True
    negatives_pool: int = 0
    hardness: float = 0.0
    cross_weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Embedded:
    """One kind of embedding of this process's pairs: [pairs, width] each, normalised."""

    query: Tensor
    target: Tensor


@dataclass(frozen=True, slots=True)
class Negatives:
    """Hard negatives of this process's queries. vectors: [pairs, k, width]; usable: [pairs, k]."""

    vectors: Tensor
    usable: Tensor


@dataclass(frozen=True, slots=True)
class Terms:
    """The contrastive terms of the whole step, as they enter the loss, and the shares of queries that hit."""

    disc: float
    gen: float
    cross: float
    hit_disc: float
    hit_gen: float

    @property
    def total(self) -> float:
        return self.disc + self.gen + self.cross


@dataclass(frozen=True, slots=True)
class Gradients:
    """Of the loss by this process's own vectors; None for a kind that is not used. negatives: [pairs, k, width]."""

    disc: Embedded
    gen: Embedded | None
    negatives: Tensor | None


def contrast(
    parallel: Parallel,
    disc: Embedded,
    gen: Embedded | None,
    keys: Tensor,
    settings: ContrastSettings,
    temperature: Tensor,
    negatives: Negatives | None = None,
) -> tuple[Terms, Gradients]:
    """Loss of all pairs of all processes, and its gradient by the own rows.

    keys: int64 [pairs, 2], of queries and targets; temperature: a scalar, gets its gradient if it is learned.
    gen is None for the discriminative baseline. Raises nothing on a loss that is no number: the caller looks.
    """
    all_keys = parallel.gather(keys)
    discs = _leaves(parallel, disc)
    gens = _leaves(parallel, gen) if gen is not None else None
    hard = parallel.gather(negatives.vectors).requires_grad_() if negatives is not None else None
    usable = parallel.gather(negatives.usable) if negatives is not None else None
    own_temperature = temperature.detach().clone().requires_grad_(temperature.requires_grad)
    terms = {"disc": 0.0, "gen": 0.0, "cross": 0.0}
    for pool in _pools(len(all_keys), settings.negatives_pool, all_keys.device):
        share = len(pool) / len(all_keys)
        for name, term in _terms(discs, gens, all_keys, pool, settings, own_temperature, hard, usable):
            (share * term).backward()
            terms[name] += share * term.item()
    if own_temperature.grad is not None:
        temperature.backward(own_temperature.grad)
    equal = equal_entries(all_keys[:, 0], all_keys[:, 1])
    own = _own_rows(parallel, len(keys))
    hit_gen = _hits(gens, equal) if gens is not None else 0.0
    gradients = Gradients(
        _own_gradient(discs, own),
        _own_gradient(gens, own) if gens is not None else None,
        hard.grad[own] if hard is not None and hard.grad is not None else None,
    )
    return Terms(**terms, hit_disc=_hits(discs, equal), hit_gen=hit_gen), gradients


def _terms(
    discs: Embedded,
    gens: Embedded | None,
    keys: Tensor,
    pool: Tensor,
    settings: ContrastSettings,
    temperature: Tensor,
    hard: Tensor | None,
    usable: Tensor | None,
) -> Iterator[tuple[str, Tensor]]:
    """The terms of one pool of negatives by name, a few rows at a time, each with a graph of its own."""
    equal = equal_entries(keys[pool, 0], keys[pool, 1])
    if not settings.mask_equal:
        equal.zero_()
    shared = (temperature, equal, settings.direction, settings.hardness)
    negatives, there = (None, None) if hard is None or usable is None else (hard[pool], usable[pool])
    for first in range(0, len(pool), _ROWS):
        rows = slice(first, first + _ROWS)
        yield "disc", contrastive(discs.query[pool], discs.target[pool], *shared, negatives, there, rows)
        if gens is None:
            continue
        yield "gen", contrastive(gens.query[pool], gens.target[pool], *shared, rows=rows)
        if settings.cross_weight:
            sides = discs.query[pool], gens.target[pool]
            yield "cross", cross_mode(*sides, temperature, equal, settings.cross_weight, rows)


def _leaves(parallel: Parallel, own: Embedded) -> Embedded:
    query, target = (parallel.gather(side.detach()).clone().requires_grad_() for side in (own.query, own.target))
    return Embedded(query, target)


def _own_gradient(leaves: Embedded, own: slice) -> Embedded:
    query, target = (
        torch.zeros_like(leaf[own]) if leaf.grad is None else leaf.grad[own] for leaf in (leaves.query, leaves.target)
    )
    return Embedded(query, target)


def _own_rows(parallel: Parallel, count: int) -> slice:
    """Where this process's rows stand among the gathered ones."""
    counts = parallel.gather(torch.tensor([count], device=parallel.device)).tolist()
    first = sum(counts[: parallel.rank])
    return slice(first, first + count)


def _pools(count: int, size: int, device: torch.device) -> list[Tensor]:
    return list(torch.arange(count, device=device).split(size or count))


def _hits(leaves: Embedded, equal: Tensor) -> float:
    parts = [slice(first, first + _ROWS) for first in range(0, len(equal), _ROWS)]
    return sum(int(in_batch_hits(leaves.query, leaves.target, equal, rows).sum()) for rows in parts) / len(equal)
