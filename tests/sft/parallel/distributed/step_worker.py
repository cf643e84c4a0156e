"""The real two-pass step on a tiny student, one rank of it, started like `worker`; rank 0 writes the weights after it.

accelerate launch --config_file … --num_processes 2 -m tests.sft.parallel.distributed.step_worker OUT
"""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.sft.rows import mixed_pairs
from tests.student import small_student
from umer1_core.backbone.model import freeze_vision
from umer1_core.sft.parallel.face import ParallelSettings, make_parallel
from umer1_core.sft.step.module import SFTModule
from umer1_core.sft.step.two_pass import StepSettings, sft_step
from umer1_core.training.data.cold_start import PairRows
from umer1_core.training.ranks import join_ranks, leave_ranks

STEPS = 3
# By scenario: how many of the fifteen pairs rank 0 has. Its share of the text and pictures makes packs of other counts.
SCENARIOS = {"even": 8, "uneven": 2, "idle": 15}
SETTINGS = StepSettings(pack_tokens=300, two_pass=True)


def trained(folder: Path, first: int) -> dict[str, Any]:
    """State after some steps, of which this rank has its share of the pairs; packs of each step and rank."""
    # Before the ranks meet: transformers saves a model on the first of them alone.
    base, ranks = small_student(), join_ranks()
    backbone = replace(base, model=copy.deepcopy(base.model))
    backbone.model.train()
    freeze_vision(backbone)
    parallel = make_parallel(
        SFTModule(backbone, reuse=True, keep_vision=True),
        make_optimizers,
        backbone.family.layer_class,
        ParallelSettings(backbone.dtype),
    )
    pairs = mixed_pairs(backbone, folder / str(ranks.rank), negatives=True)
    reports = []
    for _ in range(STEPS):
        report = sft_step(parallel, backbone.ids, _share(pairs, first), SETTINGS, torch.tensor(0.05))
        reports.append((report.loss, report.token, parallel.step(1.0)))
    return {"state": parallel.full_state(), "reports": reports}


def make_optimizers(module: torch.nn.Module) -> list[torch.optim.Optimizer]:
    # The large eps keeps a gradient that is zero but for rounding from being scaled to a full step.
    trained_ones = [p for p in module.parameters() if p.requires_grad]
    return [torch.optim.AdamW(trained_ones, lr=0.01, betas=(0.9, 0.98), eps=1e-3, weight_decay=0.0)]


def _share(pairs: list[PairRows], first: int) -> list[PairRows]:
    ranks = join_ranks()
    if ranks.world == 1:
        return pairs
    return pairs[:first] if ranks.rank == 0 else pairs[first:]


def main(out: Path) -> None:
    findings = {name: trained(out.parent / "media", first) for name, first in SCENARIOS.items()}
    if join_ranks().main:
        torch.save(findings, out)
    leave_ranks()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
