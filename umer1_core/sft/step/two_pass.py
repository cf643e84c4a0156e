"""The gradient of one step over N pairs with N true negatives, in the memory of one pack (UME-R1 equation 4).

The two-pass step (after GradCache, arXiv 2101.06983, with a token loss and packs over both sides):

1. plan: sequences of both sides are put into packs under a token budget, longest first;
2. pass 1: every pack through the backbone, without gradient and without vocabulary, its random state kept;
3. loss: the whole N x N InfoNCE of `<disc_emb>` and `<gen_emb>` on gathered leaves, its gradient by each vector;
4. pass 2: every pack again from its random state, with gradient; what is differentiated is
   sum(vector * gradient of the vector) + its share of the token loss.

Guarantee: the gradient is that of one graph over the whole step (to rounding; dropout replayed), on any number of
processes. The pack that pass 1 ends with is the one that pass 2 begins with: its graph is kept, which costs no more
memory than a pack does anyway. Where a whole step fits into one pack's budget, all graphs are: the same result, once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from umer1_core.backbone.collate import Batch, Row, collate
from umer1_core.backbone.model import TokenIds
from umer1_core.sft.parallel.face import Parallel
from umer1_core.sft.step.contrast import (
    ContrastSettings,
    Embedded,
    Gradients,
    Negatives,
    Terms,
    contrast,
)
from umer1_core.sft.step.noise import misread, shared_words
from umer1_core.sft.step.random_state import RandomState
from umer1_core.training.data.cold_start import PairRows
from umer1_core.training.losses import TokenReduction, content_keys, token_weights
from umer1_core.training.packs import Layout, plan_packs, processed_tokens


@dataclass(frozen=True, slots=True)
class StepSettings:
    """pack_tokens: budget of a pack; two_pass None: only where the step does not fit into one pack's budget."""

    contrast: ContrastSettings = field(default_factory=ContrastSettings)
    token_loss: TokenReduction = "token_mean"
    token_weight: float = 1.0
    microbatch: int = 4
    response_noise: float = 0.0
    discriminative_only: bool = False
    pack_tokens: int = 16_384
    layout: Layout = "packed"
    two_pass: bool | None = None


@dataclass(frozen=True, slots=True)
class StepReport:
    """Terms of the whole step as they enter the loss, shares of hits; tokens that carried a label, tokens of the rows
    and with padding, packs and pairs of all processes."""

    loss: float
    disc: float
    gen: float
    token: float
    cross: float
    hit_disc: float
    hit_gen: float
    tokens: int
    real_tokens: int
    processed_tokens: int
    packs: int
    pairs: int

    @property
    def has_gradient(self) -> bool:
        """There were pairs, and their contrastive loss is a number. The same on every process."""
        return self.pairs > 0 and math.isfinite(self.disc + self.gen + self.cross)


@dataclass(frozen=True, slots=True)
class _Pack:
    """Sequences of one forward pass. places: theirs among the process's rows; none where a pack only keeps step.

    kept: words that are never misread.

    The batch is made anew in each pass, under the same random state: a step holds no more than one.
    """

    places: list[int]
    rows: list[Row]
    weights: Tensor | None
    kept: tuple[int, ...]

    def batch(self, parallel: Parallel, ids: TokenIds, settings: StepSettings) -> Batch:
        layout: Literal["packed", "right"] = "packed" if settings.layout == "packed" else "right"
        batch = collate(self.rows, ids, parallel.device, layout)
        if not settings.response_noise:
            return batch
        kept = (ids.gen, ids.end_of_turn, *self.kept)
        return replace(batch, ids=misread(batch.ids, batch.labels, settings.response_noise, kept))


@dataclass(frozen=True, slots=True)
class _Kept:
    """What pass 2 needs of pass 1: the random state before a pack, the frozen tower's output, maybe its graph."""

    random: RandomState
    tower: Any
    graph: tuple[Any, ...] | None


def sft_step(
    parallel: Parallel, ids: TokenIds, pairs: Sequence[PairRows], settings: StepSettings, temperature: Tensor
) -> StepReport:
    """Accumulate the gradient of equation 4 over the pairs of all processes; the caller takes the optimizer's step.

    pairs: this process's share, maybe none. temperature: a scalar; gets its gradient where it is learned.
    A report that is not `has_gradient` made no second pass: the step is to be given up.
    """
    rows = [p.query for p in pairs] + [p.target for p in pairs] + [row for p in pairs for row in p.negatives]
    weights, tokens = _row_weights(parallel, pairs, len(rows), settings)
    packs = _packs(parallel, rows, weights, settings)
    lengths = [len(row) for row in rows]
    processed = processed_tokens(lengths, [pack.places for pack in packs], settings.layout)
    counts = [len(pairs), tokens, sum(lengths), processed, len(packs)]
    totals = parallel.total(torch.tensor(counts, device=parallel.device)).tolist()
    if totals[0] == 0:
        return _report(None, 0.0, totals)
    all_graphs = settings.two_pass is False or (settings.two_pass is None and _fits(parallel, processed, settings))
    first_graph = parallel.keeps_graphs
    # From the last pack to the first, which is the fullest: its graph is kept and used up first.
    passed = [_encode(parallel, ids, p, settings, all_graphs or (first_graph and p is packs[0])) for p in packs[::-1]]
    vectors, kept = [of_pack for of_pack, _ in passed[::-1]], [of_pack for _, of_pack in passed]
    del passed
    terms, gradients = _contrast(parallel, packs, vectors, pairs, settings, temperature)
    by_row = _row_gradients(gradients, pairs)
    del vectors, gradients  # of all rows: what they are needed for is done
    token = torch.zeros((), device=parallel.device)
    if math.isfinite(terms.total):
        token = _second_pass(parallel, ids, packs, kept, settings, *by_row)
    return _report(terms, parallel.total(token).item(), totals)


def _row_weights(
    parallel: Parallel, pairs: Sequence[PairRows], rows: int, settings: StepSettings
) -> tuple[Tensor | None, int]:
    """The weight of each supervised token in the loss, by row, from the counts of all processes; own tokens."""
    own = torch.tensor([[len(p.query.response), len(p.target.response)] for p in pairs], device=parallel.device)
    own = own.view(-1, 2).long()
    if settings.discriminative_only:
        return None, 0
    first = sum(parallel.gather(own.new_tensor([len(own)])).tolist()[: parallel.rank])
    every = parallel.gather(own)
    sides = token_weights(settings.token_loss, every[:, 0], every[:, 1], settings.microbatch)
    mine = [settings.token_weight * side[first : first + len(own)] for side in sides]
    return torch.cat([*mine, mine[0].new_zeros(rows - 2 * len(own))]), int(own.sum())


def _packs(parallel: Parallel, rows: Sequence[Row], weights: Tensor | None, settings: StepSettings) -> list[_Pack]:
    """The process's packs; empty ones are added until all processes have as many as they need to keep step."""
    plan = plan_packs([len(row) for row in rows], settings.pack_tokens, settings.layout)
    wanted = parallel.most(len(plan)) if parallel.equal_packs else len(plan)
    plan += [[] for _ in range(max(1, wanted) - len(plan))]
    kept = shared_words([row.response for row in rows]) if settings.response_noise else ()
    return [_Pack(p, [rows[i] for i in p], None if weights is None else weights[p], kept) for p in plan]


def _fits(parallel: Parallel, processed: int, settings: StepSettings) -> bool:
    """All of the step is in the memory of one pack."""
    return parallel.keeps_graphs and parallel.world == 1 and processed <= settings.pack_tokens


def _encode(
    parallel: Parallel, ids: TokenIds, pack: _Pack, settings: StepSettings, keep: bool
) -> tuple[tuple[Tensor, Tensor], _Kept]:
    """Pass 1 of a pack: (disc, gen) of its rows, and what is kept for pass 2."""
    random = RandomState.now()
    batch = pack.batch(parallel, ids, settings)
    outputs = parallel.forward(batch, pack.weights if keep else None, grad=keep)
    return (outputs[0].detach(), outputs[1].detach()), _Kept(random, outputs[3], outputs if keep else None)


def _contrast(
    parallel: Parallel,
    packs: Sequence[_Pack],
    vectors: Sequence[tuple[Tensor, Tensor]],
    pairs: Sequence[PairRows],
    settings: StepSettings,
    temperature: Tensor,
) -> tuple[Terms, Gradients]:
    disc, gen = (_in_row_order(packs, kind) for kind in zip(*vectors, strict=True))
    count = len(pairs)
    keys = content_keys([p.query_key for p in pairs], [p.target_key for p in pairs])
    return contrast(
        parallel,
        Embedded(disc[:count], disc[count : 2 * count]),
        None if settings.discriminative_only else Embedded(gen[:count], gen[count : 2 * count]),
        keys.to(parallel.device),
        settings.contrast,
        temperature,
        _negatives(parallel, disc[2 * count :], pairs),
    )


def _negatives(parallel: Parallel, vectors: Tensor, pairs: Sequence[PairRows]) -> Negatives | None:
    """vectors: [negatives of all own pairs, width] → [pairs, most, width] and which of them are there."""
    most = parallel.most(max((len(p.negatives) for p in pairs), default=0))
    if not most:
        return None
    have = torch.tensor([len(p.negatives) for p in pairs], device=vectors.device).view(-1, 1)
    usable = torch.arange(most, device=vectors.device).expand(len(pairs), most) < have
    padded = vectors.new_zeros(len(pairs), most, vectors.shape[1])
    padded[usable] = vectors
    return Negatives(padded, usable)


def _second_pass(
    parallel: Parallel,
    ids: TokenIds,
    packs: Sequence[_Pack],
    kept: list[_Kept],
    settings: StepSettings,
    disc_grad: Tensor,
    gen_grad: Tensor,
) -> Tensor:
    """Backward of every pack, which uses up what was kept of it; returns this process's share of the token loss.

    kept: of the last pack first, as pass 1 went; disc_grad, gen_grad: of the loss by the vectors, [rows, width]. The
    loss is scaled by the number of processes because reduced gradients are averaged over them.
    """
    share = torch.zeros((), device=parallel.device)
    with parallel.accumulate():
        for number, pack in enumerate(packs):
            disc, gen, token = _with_graph(parallel, ids, pack, settings, kept.pop())
            loss = token + 0.0 * (disc.sum() + gen.sum())
            if pack.places:
                loss = loss + (disc * disc_grad[pack.places]).sum()
                loss = loss + (gen * gen_grad[pack.places]).sum()
            parallel.backward(loss * parallel.world, last=number == len(packs) - 1)
            share = share + token.detach()
    return share


def _with_graph(
    parallel: Parallel, ids: TokenIds, pack: _Pack, settings: StepSettings, kept: _Kept
) -> tuple[Tensor, Tensor, Tensor]:
    """(disc, gen, weighted token loss) of a pack with their graph, under the random state of pass 1."""
    if kept.graph is not None:
        return kept.graph[:3]
    after = RandomState.now()
    kept.random.restore()
    disc, gen, token, _ = parallel.forward(pack.batch(parallel, ids, settings), pack.weights, kept.tower, grad=True)
    after.restore()
    return disc, gen, token


def _row_gradients(found: Gradients, pairs: Sequence[PairRows]) -> tuple[Tensor, Tensor]:
    """The loss's gradient by the vectors of all own rows, in row order: disc, gen; [rows, width]."""
    disc = [found.disc.query, found.disc.target]
    spare = sum(len(p.negatives) for p in pairs)
    if found.negatives is not None:
        disc += [grad[: len(p.negatives)] for grad, p in zip(found.negatives, pairs, strict=True)]
    by_disc = torch.cat(disc)
    if found.gen is None:
        return by_disc, torch.zeros_like(by_disc)
    none = by_disc.new_zeros(spare, by_disc.shape[1])
    return by_disc, torch.cat([found.gen.query, found.gen.target, none])


def _in_row_order(packs: Sequence[_Pack], vectors: Sequence[Tensor]) -> Tensor:
    """Vectors of the packs as [rows, width], in the order of the process's rows."""
    places = [i for pack in packs for i in pack.places]
    found = torch.cat(list(vectors))
    return found[torch.tensor(places, device=found.device, dtype=torch.long).argsort()]


def _report(found: Terms | None, token: float, totals: Sequence[int]) -> StepReport:
    pairs, tokens, real, processed, packs = totals
    return StepReport(
        loss=token + (found.total if found else 0.0),
        disc=found.disc if found else 0.0,
        gen=found.gen if found else 0.0,
        token=token,
        cross=found.cross if found else 0.0,
        hit_disc=found.hit_disc if found else 0.0,
        hit_gen=found.hit_gen if found else 0.0,
        tokens=tokens,
        real_tokens=real,
        processed_tokens=processed,
        packs=packs,
        pairs=pairs,
    )
