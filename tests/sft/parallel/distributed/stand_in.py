"""A small module with what makes a real one hard to shard, and a two-pass step over it.

Tied embedding and head, the head's weight used outside the head, a convolution's weight used outside the convolution,
a frozen part, a part that some sequences do not touch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize
from torch.utils.checkpoint import checkpoint

from umer1_core.sft.parallel.face import Parallel

WORDS, WIDTH, TEMPERATURE, MAX_NORM = 48, 16, 0.1, 0.5


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.outer(torch.tanh(self.inner(self.norm(hidden))))


class Tower(nn.Module):
    """Frozen, but for its merger."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.merger = nn.Conv2d(1, WIDTH, 2, bias=False), nn.Linear(WIDTH, WIDTH)
        self.patch.requires_grad_(False)

    def features(self, ids: Tensor) -> Tensor:
        """[rows, length] → [rows, width]; the convolution as a linear map."""
        weight = self.patch.weight.flatten(1)
        return linear(ids[:, :4].to(weight.dtype) / WORDS, weight)


class StandIn(nn.Module):
    def __init__(self, rarely: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight
        self.tower = Tower()
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.rare = nn.Linear(WIDTH, WIDTH) if rarely else None

    def forward(self, ids: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """ids: [rows, length] → vectors [rows, width], the sum of next-token losses."""
        seen = self.tower.features(ids) if features is None else features
        hidden = self.embed(ids) + self.tower.merger(seen).unsqueeze(1)
        for layer in self.layers:
            hidden = layer(hidden)
        rows = (ids == 0).any(1)
        if self.rare is not None and bool(rows.any()):
            hidden = hidden + self.rare(hidden) * rows.view(-1, 1, 1)
        total = checkpoint(_tokens, hidden[:, :-1], self.head.weight, ids[:, 1:], use_reentrant=False)
        return normalize(hidden[:, -1].float(), dim=-1), total


def make_optimizers(module: nn.Module) -> list[torch.optim.Optimizer]:
    trained = [p for p in module.parameters() if p.requires_grad]
    # The large eps keeps a gradient that is zero but for rounding from being scaled to a full step.
    return [torch.optim.AdamW(trained, lr=0.02, betas=(0.9, 0.98), eps=1e-3, weight_decay=0.0)]


def sequences(step: int, count: int) -> Tensor:
    """A step's sequences: queries, then targets. The word 0 is in the first one alone."""
    drawn = torch.randint(1, WORDS, (count, 8), generator=torch.Generator().manual_seed(step))
    drawn[0, 3] = 0
    return drawn


def two_pass(parallel: Parallel, ids: Tensor, packs: Sequence[slice], features: Tensor | None = None) -> None:
    """Accumulate the gradient of one step. ids: this rank's [rows, length], an even number; packs: parts of them.

    The contrastive loss pairs sequence 2i with 2i + 1 over all ranks.
    """
    planned = list(packs)
    if parallel.equal_packs:
        planned += [slice(0, 0)] * (parallel.most(len(planned)) - len(planned))
    vectors = [
        parallel.forward(*_pack(ids, features, pack), grad=False)[0][: pack.stop - pack.start] for pack in planned
    ]
    local = torch.cat([torch.zeros(0, WIDTH), *vectors])
    leaves = parallel.gather(local).requires_grad_()
    scores = leaves[::2] @ leaves[1::2].T / TEMPERATURE
    cross_entropy(scores, torch.arange(len(scores))).backward()
    before = sum(parallel.gather(torch.tensor([len(ids)]))[: parallel.rank].tolist())
    assert leaves.grad is not None
    cached = leaves.grad[before : before + len(ids)]
    tokens = int(parallel.total(torch.tensor(ids.numel() - len(ids))))
    with parallel.accumulate():
        for place, pack in enumerate(planned):
            rows = pack.stop - pack.start
            vector, total = parallel.forward(*_pack(ids, features, pack), grad=True)
            loss = (vector[:rows] * cached[pack]).sum() + (total / tokens if rows else 0 * total)
            parallel.backward(parallel.world * loss, last=place == len(planned) - 1)


def _pack(ids: Tensor, features: Tensor | None, pack: slice) -> tuple[Tensor, Tensor | None]:
    """A pack's arguments; one of no rows is one sequence whose outputs are left out."""
    if pack.stop == pack.start:
        return torch.ones(1, 8, dtype=torch.long), None
    return ids[pack], None if features is None else features[pack]


def _tokens(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(linear(hidden, weight).flatten(0, 1).float(), labels.flatten(), reduction="sum")
