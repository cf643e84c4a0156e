"""The embedding reward of a whole block, both sides, from vectors to values, one thread.

128 pairs, 8 rollouts of each side. As released: every row of the similarities on its own, in a loop, with an argsort
of all of it; in numpy, and in torch. Width 64, the miniature's; the matrix product is in both times, and at width 1,536
it would be most of them.
Memory: growth at the peak in a fresh process, against one matrix of all similarities.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.bench.line import Line, cpu_seconds_in_turn
from tests.bench.memory import in_fresh_process, peak_growth
from tests.grpo.brute import released
from umer1_core.grpo.similarity import Negatives, RewardSettings, embedding_reward

_PAIRS, _GROUP = 128, 8
_WIDTH = 64
_NEGATIVES: tuple[Negatives, ...] = ("all", "hardest", "softmax")


def lines() -> Iterator[Line]:
    torch.set_num_threads(1)
    yield _time(_numpy_loop, "numpy loop, as released")
    yield _time(_torch_loop, "torch loop")
    matrix = (_PAIRS * _GROUP) ** 2 * 4 / 2**20
    for negatives in _NEGATIVES:
        name = f"grpo: embedding reward, {_PAIRS} pairs × 2 × {_GROUP}, memory, {negatives} negatives"
        yield Line(
            name, in_fresh_process("tests.bench.grpo_rewards", negatives), matrix, "MB", "one matrix", 2.5, False
        )


def _time(plain: Callable[[Tensor, Tensor], Tensor], plain_name: str) -> Line:
    block = _block()
    if not torch.allclose(_ours(*block).float(), plain(*block).float(), rtol=0, atol=1e-5):
        raise ValueError("Both ways do not compute the same rewards.")
    ours, loop = cpu_seconds_in_turn(lambda: _ours(*block), lambda: plain(*block))
    name = f"grpo: embedding reward, {_PAIRS} pairs × 2 × {_GROUP}"
    return Line(name, 1e3 * ours, 1e3 * loop, "CPU ms", plain_name, 0.2, False)


def _block() -> tuple[Tensor, Tensor]:
    """Two sides of [N, G, width], each pair about a centre of its own."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(_PAIRS, 1, _WIDTH, generator=draw)
    queries, targets = (centres + 2 * torch.randn(_PAIRS, _GROUP, _WIDTH, generator=draw) for _ in "qt")
    return normalize(queries, dim=-1), normalize(targets, dim=-1)


def _ours(queries: Tensor, targets: Tensor, negatives: Negatives = "all") -> Tensor:
    valid, how = torch.ones(queries.shape[:2], dtype=torch.bool), RewardSettings(negatives=negatives)
    asked = embedding_reward(queries, targets, valid, valid, None, how)
    found = embedding_reward(targets, queries, valid, valid, None, how)
    return torch.stack([asked.value, found.value])


def _numpy_loop(queries: Tensor, targets: Tensor) -> Tensor:
    similarities = queries.flatten(0, 1).numpy() @ targets.flatten(0, 1).numpy().T
    sides = [released(side, _GROUP) for side in (similarities, np.ascontiguousarray(similarities.T))]
    return torch.from_numpy(np.stack(sides)).view(2, _PAIRS, _GROUP)


def _torch_loop(queries: Tensor, targets: Tensor) -> Tensor:
    similarities = queries.flatten(0, 1) @ targets.flatten(0, 1).T
    rows = [_torch_row(scores, row) for side in (similarities, similarities.T) for row, scores in enumerate(side)]
    return torch.stack(rows).view(2, _PAIRS, _GROUP)


def _torch_row(scores: Tensor, row: int) -> Tensor:
    start, end = row // _GROUP * _GROUP, (row // _GROUP + 1) * _GROUP
    top = scores.argsort(descending=True)[:_GROUP]
    ranking = ((top >= start) & (top < end)).float().mean()
    return ranking * (scores[start:end].mean() - torch.cat([scores[:start], scores[end:]]).mean())


def _peak(negatives: Negatives) -> float:
    """MB over what the process holds with the block loaded."""
    torch.set_num_threads(1)
    block = _block()
    _ours(*(side[:4] for side in block), negatives)
    return peak_growth(lambda: _ours(*block, negatives))


if __name__ == "__main__":
    print(json.dumps(_peak(sys.argv[1])))  # noqa: T201
