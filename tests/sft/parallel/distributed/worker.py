"""What one rank does, started by `accelerate launch` with a config of deploy/accelerate; rank 0 writes the findings.

accelerate launch --config_file … --num_processes 2 -m tests.sft.parallel.distributed.worker OUT
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.sft.parallel.distributed.stand_in import MAX_NORM, Layer, StandIn, make_optimizers, sequences, two_pass
from umer1_core.errors import Fatal
from umer1_core.sft.parallel.face import Parallel, ParallelSettings, make_parallel
from umer1_core.training.launch import launched_kind
from umer1_core.training.ranks import leave_ranks

STEPS, COUNT = 3, 12
# By scenario: how many of the sequences rank 0 has, and into how many packs each rank cuts its own.
SCENARIOS = {"even": (6, (2, 2)), "uneven": (2, (1, 3)), "idle": (12, (2, 0))}
_REDUCTIONS = ("c10d::allreduce_", "c10d::_reduce_scatter_base_", "c10d::reduce_scatter_", "c10d::reduce_")


def make(rarely: bool, compute_dtype: torch.dtype = torch.float32) -> Parallel:
    # Another seed on each rank: all must start from the weights of rank 0.
    torch.manual_seed(0)
    module = StandIn(rarely)
    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1.5)
    return make_parallel(module, make_optimizers, Layer, ParallelSettings(compute_dtype))


def share(parallel: Parallel, ids: Tensor, first: int, packs: tuple[int, int]) -> tuple[Tensor, list[slice]]:
    """This rank's sequences and its packs of them."""
    own = ids[:first] if parallel.rank == 0 else ids[first:]
    count = packs[parallel.rank]
    return own, cut(len(own), count)


def cut(rows: int, count: int) -> list[slice]:
    borders = [rows * i // max(1, count) for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(borders)]


def muon_refused() -> str:
    """The remedy of the error that sharding an optimizer of whole matrices raises."""
    module = StandIn(rarely=False)

    def muon(made: torch.nn.Module) -> list[torch.optim.Optimizer]:
        matrices = [p for p in made.parameters() if p.ndim == 2 and p.requires_grad]
        return [torch.optim.Muon(matrices), *make_optimizers(made)]

    try:
        make_parallel(module, muon, Layer, ParallelSettings())
    except Fatal as error:
        return error.remedy
    return ""


def trained(parallel: Parallel, first: int, packs: tuple[int, int]) -> dict[str, Any]:
    norms = []
    for step in range(STEPS):
        own, planned = share(parallel, sequences(step, COUNT), first, packs)
        two_pass(parallel, own, planned)
        parallel.set_rate(1 / (step + 1))
        norms.append(parallel.step(MAX_NORM))
    return {"state": parallel.full_state(), "norms": norms}


def gathered(parallel: Parallel) -> dict[str, Any]:
    """What each rank gathers from ranks that have 0, 2, 4, … rows, and none."""
    rows = torch.arange(2 * parallel.rank * 3.0).view(-1, 3) + parallel.rank
    keys = torch.arange(2 * parallel.rank) - 5
    flags = torch.ones(2 * parallel.rank, dtype=torch.bool)
    try:
        parallel.gather(torch.zeros(2, 3, dtype=torch.float32 if parallel.rank else torch.int64))
        refused = 0
    except ValueError:
        refused = 1
    return {
        "refused": parallel.total(torch.tensor(refused)),
        "rows": parallel.gather(rows),
        "keys": parallel.gather(keys),
        "flags": parallel.gather(flags),
        "none": parallel.gather(torch.zeros(0, 3)),
        "total": parallel.total(torch.tensor([1.0, parallel.rank])),
        "most": parallel.most(7 - parallel.rank),
    }


def reductions(parallel: Parallel, packs: int, every: bool = False) -> int:
    """How many gradient reductions a step of so many packs makes; every: with each backward call as the last one."""
    from torch.profiler import ProfilerActivity, profile

    ids = sequences(9, COUNT)
    with profile(activities=[ProfilerActivity.CPU]) as profiler, parallel.accumulate():
        for place, pack in enumerate(cut(COUNT, packs)):
            outputs, total = parallel.forward(ids[pack], grad=True)
            parallel.backward(outputs.sum() + total, last=every or place == packs - 1)
    parallel.step(MAX_NORM)
    return sum(event.name in _REDUCTIONS for event in profiler.events())


def spoiled(parallel: Parallel) -> dict[str, Any]:
    """The weights around a step whose gradient is not a number on rank 0, and one given up after its first pass."""
    before = parallel.full_state()
    with parallel.accumulate():
        outputs, total = parallel.forward(sequences(3, COUNT), grad=True)
        parallel.backward((outputs.sum() + total) * (float("nan") if parallel.rank == 0 else 1.0), last=True)
    norm = parallel.step(MAX_NORM)
    parallel.forward(sequences(3, COUNT), grad=False)
    parallel.skip()
    return {"before": before, "norm": norm, "after": parallel.full_state()}


def outside() -> dict[str, Any]:
    """Two steps whose features of the frozen part were computed outside `forward`, and two without."""
    states = []
    for reuse in (True, False):
        parallel = make(rarely=False)
        module: Any = parallel.module
        for step in range(2):
            own, planned = share(parallel, sequences(step, COUNT), 6, (2, 2))
            features = None
            if reuse:
                with parallel.whole(module.tower), torch.no_grad():
                    features = module.tower.features(own)
            two_pass(parallel, own, planned, features)
            parallel.step(MAX_NORM)
        states.append(parallel.full_state())
    return {"reused": states[0], "anew": states[1]}


def judged() -> dict[str, Any]:
    """Training between whose steps rank 0 alone runs the module, twice."""
    parallel = make(rarely=False)
    difference = []
    for step in range(STEPS):
        ids = sequences(step, COUNT)
        own, planned = share(parallel, ids, 6, (2, 2))
        two_pass(parallel, own, planned)
        parallel.set_rate(1 / (step + 1))
        parallel.step(MAX_NORM)
        together = parallel.forward(ids, grad=False)[0]
        with parallel.whole(parallel.module), torch.no_grad():
            if parallel.main:
                difference += [(parallel.module(ids)[0] - together).abs().max().item() for _ in range(2)]
    return {"state": parallel.full_state(), "differences": difference}


def resumed(folder: Path) -> dict[str, Any]:
    """Five steps; and three, a checkpoint, another start, two more."""
    states = []
    for stop in (False, True):
        running = make(rarely=False)
        for step in range(5):
            if stop and step == 3:
                if running.main:
                    folder.mkdir()
                running.barrier()
                running.save(folder)
                running.barrier()
                running = make(rarely=False)
                running.load(folder)
            own, planned = share(running, sequences(step, COUNT), 6, (2, 2))
            two_pass(running, own, planned)
            running.set_rate(1 / (step + 1))
            running.step(MAX_NORM)
        states.append(running.full_state())
    return {"through": states[0], "resumed": states[1]}


def main(out: Path) -> None:
    kind = launched_kind()
    findings: dict[str, Any] = {}
    for name, (first, packs) in SCENARIOS.items():
        findings[name] = trained(make(rarely=False), first, packs)
    parallel = make(rarely=False)
    findings["gathered"] = gathered(parallel)
    if not parallel.equal_packs or kind == "fsdp2":
        findings["rare"] = trained(make(rarely=True), 6, (2, 2))
    if kind != "ddp":
        findings["rounded"] = trained(make(rarely=False, compute_dtype=torch.bfloat16), 6, (2, 2))
        findings["muon refused"] = muon_refused()
    findings["reductions"] = [reductions(parallel, 1), reductions(parallel, 3)]
    if kind != "deepspeed":
        findings["reductions every time"] = reductions(parallel, 3, every=True)
    findings["spoiled"] = spoiled(parallel)
    findings["outside"] = outside()
    findings["judged"] = judged()
    findings["resumed"] = resumed(out.parent / "checkpoint")
    if parallel.main:
        torch.save(findings, out)
    leave_ranks()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
