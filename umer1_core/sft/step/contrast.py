"""The contrastive terms over the whole step, on leaves: every process computes all of it (UME-R1 equations 1 and 2).

Embeddings of all processes are gathered without a graph and become leaves; the N x N losses are computed whole on each
process, and each keeps the gradient of its own rows. So no collective has to be differentiated, and N negatives are
true negatives on any number of processes. For 1,024 pairs of width 1,536 the leaves take 25 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from blake3 import blake3
from torch import Tensor

from umer1_core.sft.parallel.face import Parallel
from umer1_core.sft.step.losses import Direction, contrastive, cross_mode, equal_entries, in_batch_hits


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
class Contrast:
    """Terms of the whole step; gradients of the loss by this process's own vectors, None where a kind is not used."""

    disc: float
    gen: float
    cross: float
    hit_disc: float
    hit_gen: float
    disc_grad: Embedded
    gen_grad: Embedded | None
    negatives_grad: Tensor | None

    @property
    def total(self) -> float:
        return self.disc + self.gen + self.cross


def contrast(
    parallel: Parallel,
    disc: Embedded,
    gen: Embedded | None,
    keys: Tensor,
    settings: ContrastSettings,
    temperature: Tensor,
    negatives: Negatives | None = None,
) -> Contrast:
    """Loss of all pairs of all processes, and its gradient by the own rows.

    keys: int64 [pairs, 2], of queries and targets; temperature: a scalar, gets its gradient if it is learned.
    gen is None for the discriminative baseline. Raises nothing on a loss that is no number: the caller looks.
    """
    all_keys = parallel.gather(keys)
    discs = _leaves(parallel, disc)
    gens = _leaves(parallel, gen) if gen is not None else None
    hard = parallel.gather(negatives.vectors).requires_grad_() if negatives is not None else None
    usable = parallel.gather(negatives.usable) if negatives is not None else None
    pools = _pools(len(all_keys), settings.negatives_pool, all_keys.device)
    terms = torch.stack(
        [_pool_terms(discs, gens, all_keys, pool, settings, temperature, hard, usable) for pool in pools]
    )
    terms = (terms * terms.new_tensor([len(pool) for pool in pools])[:, None]).sum(0) / len(all_keys)
    terms.sum().backward()
    equal = equal_entries(all_keys[:, 0], all_keys[:, 1])
    own = _own_rows(parallel, len(keys))
    return Contrast(
        disc=terms[0].item(),
        gen=terms[1].item(),
        cross=terms[2].item(),
        hit_disc=_hits(discs, equal),
        hit_gen=_hits(gens, equal) if gens is not None else 0.0,
        disc_grad=_own_gradient(discs, own),
        gen_grad=_own_gradient(gens, own) if gens is not None else None,
        negatives_grad=hard.grad[own] if hard is not None and hard.grad is not None else None,
    )


def content_keys(queries: Sequence[str], targets: Sequence[str]) -> Tensor:
    """int64 [pairs, 2]: equal content gives equal numbers, on every process."""
    numbers = [[_number(query), _number(target)] for query, target in zip(queries, targets, strict=True)]
    return torch.tensor(numbers, dtype=torch.int64).view(-1, 2)  # also where there are none


def _pool_terms(
    discs: Embedded,
    gens: Embedded | None,
    keys: Tensor,
    pool: Tensor,
    settings: ContrastSettings,
    temperature: Tensor,
    hard: Tensor | None,
    usable: Tensor | None,
) -> Tensor:
    """[disc, gen, cross] of one pool of negatives."""
    equal = equal_entries(keys[pool, 0], keys[pool, 1])
    if not settings.mask_equal:
        equal = torch.zeros_like(equal)
    shared = (temperature, equal, settings.direction, settings.hardness)
    of_pool = None if hard is None or usable is None else (hard[pool], usable[pool])
    disc = contrastive(discs.query[pool], discs.target[pool], *shared, *(of_pool or ()))
    none = disc.new_zeros(())
    if gens is None:
        return torch.stack([disc, none, none])
    gen = contrastive(gens.query[pool], gens.target[pool], *shared)
    if not settings.cross_weight:
        return torch.stack([disc, gen, none])
    cross = cross_mode(discs.query[pool], gens.target[pool], temperature, equal, settings.cross_weight)
    return torch.stack([disc, gen, cross])


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
    return in_batch_hits(leaves.query.detach(), leaves.target.detach(), equal).float().mean().item()


def _number(key: str) -> int:
    return int.from_bytes(blake3(key.encode()).digest()[:8], "big", signed=True)
