"""Memory and time of the token loss at a real vocabulary, without a model around it.

One sequence of 1,024 predicted tokens, a third unsupervised (the prompt), vocabulary 151,936, width 256, fp32, one
thread; forward and backward into states and lm_head. Each way runs in a fresh process; memory is the growth of its
highest resident set over what it held before.

naive: as the released trainer, logits of every position in fp32, their shifted copy, cross_entropy;
rows: only supervised positions meet the vocabulary, then cross_entropy; native: torch's linear_cross_entropy on these.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import LinearCrossEntropyOptions
from torch.nn.functional import cross_entropy, linear_cross_entropy

from tests.bench.line import Line
from tests.bench.memory import peak_growth
from umer1_core.sft.step.token_loss import weighted_token_loss

_TOKENS, _VOCABULARY, _WIDTH = 1_024, 151_936, 256
_IGNORED = -100


class Measured(NamedTuple):
    """megabytes: growth at the peak; seconds: of the CPU, the median; loss: mean over supervised tokens."""

    megabytes: float
    seconds: float
    loss: float


def lines() -> Iterator[Line]:
    ours, naive, rows = (_in_process(way, 3) for way in ("ours", "naive", "rows"))
    native = _in_process("native", 1)
    for other in (naive, rows, native):
        if abs(other.loss - ours.loss) > 1e-4 * ours.loss:
            raise ValueError(f"The ways do not compute the same loss: {ours.loss}, {other.loss}.")
    size = f"sft: token loss, {_TOKENS:,} tokens × {_VOCABULARY:,}"
    yield Line(f"{size}, memory", ours.megabytes, naive.megabytes, "MB", "naive, as released", 0.2, False)
    yield Line(f"{size}, memory", ours.megabytes, rows.megabytes, "MB", "supervised rows only", 1.0, False)
    yield Line(f"{size}, memory", ours.megabytes, native.megabytes, "MB", "torch linear_cross_entropy", 1.0, False)
    yield Line(f"{size}, time", ours.seconds, naive.seconds, "CPU s", "naive, as released", 1.0, False)
    yield Line(f"{size}, time", ours.seconds, rows.seconds, "CPU s", "supervised rows only", 1.0, False)
    yield Line(f"{size}, time", ours.seconds, native.seconds, "CPU s", "torch linear_cross_entropy", 1.0, False)


def _in_process(way: str, runs: int) -> Measured:
    command = [sys.executable, "-m", "tests.bench.sft_ce", way, str(runs)]
    return Measured(*json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def _ours(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    rows, names = _supervised(states, labels)
    return weighted_token_loss(rows, weight, names, torch.full((len(rows),), 1 / len(rows)))


def _naive(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    logits = (states @ weight.T).float()
    return cross_entropy(logits[:-1].contiguous(), labels[1:].contiguous(), ignore_index=_IGNORED)


def _rows(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    rows, names = _supervised(states, labels)
    return cross_entropy((rows @ weight.T).float(), names)


def _native(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    rows, names = _supervised(states, labels)
    return linear_cross_entropy(rows, weight, names, options=LinearCrossEntropyOptions())


_WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ours": _ours,
    "naive": _naive,
    "rows": _rows,
    "native": _native,
}


def _supervised(states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    places = (labels != _IGNORED).nonzero()[:, 0]
    return states[places - 1], labels[places]


def _measure(way: str, runs: int) -> Measured:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(_TOKENS + 1, _WIDTH, generator=generator).requires_grad_()
    weight = torch.randn(_VOCABULARY, _WIDTH, generator=generator).mul_(0.05).requires_grad_()
    labels = torch.randint(_VOCABULARY, (_TOKENS + 1,), generator=generator)
    labels[: 1 + _TOKENS // 3] = _IGNORED
    _step(_WAYS[way], states, weight[:64].detach().requires_grad_(), labels.clamp(max=63))
    seconds, losses = list[float](), list[float]()

    def steps() -> None:
        for _ in range(runs):
            states.grad = weight.grad = None
            started = time.process_time()
            losses.append(_step(_WAYS[way], states, weight, labels))
            seconds.append(time.process_time() - started)

    return Measured(peak_growth(steps), statistics.median(seconds), losses[-1])


def _step(way: Callable[[Tensor, Tensor, Tensor], Tensor], states: Tensor, weight: Tensor, labels: Tensor) -> float:
    loss = way(states, weight, labels)
    loss.backward()
    return loss.item()


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], int(sys.argv[2]))))  # noqa: T201
