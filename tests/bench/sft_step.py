"""The training step on the miniature's student and its data set's own rows, one thread, the vision tower frozen.

Tokens: what each policy sends through the model for the same rows. As released: four pairs at a time in the order of
the data, queries and targets in batches of their own, padded. As VLM2Vec: the same with eight.
Memory: growth at the peak over what the process holds with the rows loaded, one step of many pairs against steps of few
over the same pairs, each in a fresh process with an allocator that hands freed tensors back. What is reused of the
tower is kept for the whole step: 64 numbers for each of four patches behind a visual token.
Time: CPU seconds of a step; direct is one graph over all packs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from tests.bench.line import Line, cpu_seconds_in_turn
from tests.bench.memory import in_fresh_process, peak_growth
from tests.bench.miniature import data_set
from umer1_core.backbone.collate import Encoder
from umer1_core.backbone.model import Backbone, freeze_vision, load_backbone
from umer1_core.miniature.student import build_student
from umer1_core.sft.data.loader import Loader, LoaderSettings
from umer1_core.sft.parallel.with_torch import OneProcess
from umer1_core.sft.step.module import SFTModule
from umer1_core.sft.step.two_pass import StepSettings, sft_step
from umer1_core.training.data.batches import Batches
from umer1_core.training.data.cold_start import ColdStart, PairRows
from umer1_core.training.packs import plan_packs, processed_tokens
from umer1_core.training.ranks import join_ranks

_TWO_PASSES = StepSettings(pack_tokens=4_096, two_pass=True)
_FEW, _MANY, _DIRECT = 32, 1_024, 256
_TEMPERATURE = torch.tensor(0.02)


def lines() -> Iterator[Line]:
    torch.set_num_threads(1)
    disable_progress_bar()
    yield from _tokens()
    for reuse, said in ((False, "tower run twice"), (True, "features reused")):
        few, many = (in_fresh_process("tests.bench.sft_step", str(pairs), str(int(reuse))) for pairs in (_FEW, _MANY))
        yield Line(f"sft: peak memory, {_MANY:,} pairs, {said}", many, few, "MB", f"{_FEW} pairs", 1.1, False)
    yield from _time()


def _tokens() -> Iterator[Line]:
    rows = _rows(_MANY)
    sides = [[len(pair.query) for pair in rows], [len(pair.target) for pair in rows]]
    both = sides[0] + sides[1]
    packs = plan_packs(both, _TWO_PASSES.pack_tokens)
    ours = processed_tokens(both, packs) / sum(both)
    for name, size in (("released: 4 padded", 4), ("VLM2Vec: 8 padded", 8)):
        chunks = [list(range(first, min(first + size, len(rows)))) for first in range(0, len(rows), size)]
        padded = sum(processed_tokens(side, chunks, "padded") for side in sides) / sum(both)
        yield Line("sft: tokens processed / real", ours, padded, "x", name, 1.0, False)
    yield Line("sft: tokens processed / real", ours, 1.0, "x", "no padding at all", 1.02, False)


def _time() -> Iterator[Line]:
    backbone, pairs = _student(), _rows(_DIRECT)
    parallel = OneProcess(join_ranks(), SFTModule(backbone, reuse=True), lambda module: [])

    def step(settings: StepSettings, reuse: bool = True) -> None:
        parallel.module.reuse = reuse
        parallel.skip()
        sft_step(parallel, backbone.ids, pairs, settings, _TEMPERATURE)

    two, direct, again = cpu_seconds_in_turn(
        lambda: step(_TWO_PASSES),
        lambda: step(replace(_TWO_PASSES, two_pass=False)),
        lambda: step(_TWO_PASSES, reuse=False),
        runs=7,
    )
    yield Line(f"sft: step of {_DIRECT} pairs, two passes", two, direct, "CPU s", "direct, one graph", 1.25, False)
    yield Line(f"sft: step of {_DIRECT} pairs, features reused", two, again, "CPU s", "tower run twice", 1.0, False)


def _rows(pairs: int) -> Sequence[PairRows]:
    """The first batch of so many."""
    data = ColdStart(data_set())
    batches = Batches(data.source_codes, data.trainable, pairs, pairs // 2, 0)
    with Loader(data, batches, Encoder(_student(), 1_024), 0, 1, LoaderSettings(workers=0)) as loader:
        (step,) = loader
    return step.pairs


@cache
def _student() -> Backbone:
    with tempfile.TemporaryDirectory() as folder:
        build_student(Path(folder), 0, ColdStart(data_set()).texts())
        backbone = load_backbone(folder)
    freeze_vision(backbone)
    return backbone


def _peak_growth(count: int, reuse: bool) -> float:
    """Megabytes."""
    torch.set_num_threads(1)
    disable_progress_bar()
    backbone, pairs = _student(), _rows(_MANY)
    parallel = OneProcess(join_ranks(), SFTModule(backbone, reuse), lambda module: [])
    sft_step(parallel, backbone.ids, pairs[:2], _TWO_PASSES, _TEMPERATURE)
    parallel.skip()

    def steps() -> None:
        for first in range(0, _MANY, count):
            sft_step(parallel, backbone.ids, pairs[first : first + count], _TWO_PASSES, _TEMPERATURE)

    return peak_growth(steps)


if __name__ == "__main__":
    print(json.dumps(_peak_growth(int(sys.argv[1]), sys.argv[2] == "1")))  # noqa: T201
