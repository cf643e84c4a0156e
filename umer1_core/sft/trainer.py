"""The loop of one training: rows in, steps taken, written down, evaluated, kept.

Guarantee: from a checkpoint on, the same steps follow as in a training that ran through; the order of rows, the random
state and the optimizer's state are all in it or follow from the step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from schemas.training import Training
from umer1_core.backbone.collate import Encoder
from umer1_core.backbone.model import load_backbone, save_backbone
from umer1_core.backbone.sensitivity import cot_sensitivity
from umer1_core.backbone.vision import tower_is_frozen
from umer1_core.errors import Fatal
from umer1_core.sft.data.lengths import Lengths, load_lengths, measure_lengths
from umer1_core.sft.data.loader import Loader, LoaderSettings, StepPairs
from umer1_core.sft.data.token_count import TokenCounter
from umer1_core.sft.optimizer import make_optimizers, rate_factor
from umer1_core.sft.parallel.face import ParallelSettings, make_parallel
from umer1_core.sft.setup import make_batches, prepare, step_settings
from umer1_core.sft.step.module import SFTModule
from umer1_core.sft.step.random_state import RandomState
from umer1_core.sft.step.two_pass import StepReport, sft_step
from umer1_core.sft.temperature import Temperature
from umer1_core.training.checkpoint import Identity, newest_checkpoint, save_checkpoint, write_folder, write_json
from umer1_core.training.data.cold_start import ColdStart
from umer1_core.training.data.pair_table import Rejection
from umer1_core.training.machine import peak_memory_gb
from umer1_core.training.ranks import Ranks
from umer1_core.training.watch.log import EVALUATIONS, REJECTIONS, RunLog, best_evaluation, read_lines
from umer1_core.training.watch.slice import look_at_slice, reasoned

Progress = Callable[[dict[str, Any]], None]


class Trainer:
    """The state of one training on one process: model, optimizer, temperature, what was seen so far."""

    def __init__(
        self,
        data: ColdStart,
        training: Training,
        base: str,
        folder: Path,
        identity: Identity,
        ranks: Ranks,
        on_count: Callable[[int, int], None],
    ) -> None:
        self.data, self.training, self.base, self.folder, self.identity = data, training, base, folder, identity
        self.ranks = ranks
        torch.manual_seed(training.seed + ranks.rank)
        self.backbone = prepare(load_backbone(base), training)
        self.encoder = Encoder(self.backbone, training.max_tokens)
        reuse = training.reuse_features and tower_is_frozen(self.backbone)
        self.parallel = make_parallel(
            SFTModule(self.backbone, reuse, keep_vision=ranks.world > 1),
            lambda module: make_optimizers(module, training),
            self.backbone.family.layer_class,
            ParallelSettings(self.backbone.dtype),
        )
        self.temperature = Temperature(
            training.temperature, training.learn_temperature, training.learning_rate, self.parallel.device
        )
        self.settings = step_settings(training)
        self.lengths = self._measure(on_count)
        self.bad_in_a_row = 0

    def run(self, on_progress: Progress) -> tuple[int, dict[str, Any], int]:
        """(steps that were already done, the last step's record, rejected rows)."""
        first = self._resume()
        record: dict[str, Any] = {}
        with RunLog(self.folder, first, self.parallel.main) as self.log:
            self._reject(self.lengths.rejections(self.data, self.training.max_tokens))
            with self._loader(first) as loader:
                for drawn in loader:
                    record = self._step(drawn)
                    self._write(record, on_progress)
                    self._evaluate(record["step"])
                    self._checkpoint(record["step"])
            rejected = self.log.rejected_rows
        write_folder(self.folder / "model", self._export, self.ranks)
        return first, record, rejected

    # -- a step ------------------------------------------------------------------------------------------------------

    def _step(self, drawn: StepPairs) -> dict[str, Any]:
        self._reject(self.ranks.gather_objects(drawn.rejections))
        started = time.monotonic()
        factor = rate_factor(self.training, drawn.step)
        temperature = self.temperature.tensor()
        report = sft_step(self.parallel, self.backbone.ids, drawn.pairs, self.settings, temperature)
        norm = self._take(report, factor)
        problem = _problem(report, norm)
        self._judge(drawn.step + 1, problem)
        return {
            "step": drawn.step + 1,
            **asdict(report),
            "epoch": drawn.epoch,
            "rate": factor * self.training.learning_rate,
            "temperature": temperature.item(),
            "grad_norm": norm,
            "skipped": int(problem is not None),
            "waste": report.processed_tokens / max(1, report.real_tokens) - 1,
            "memory_gb": peak_memory_gb(self.parallel.device),
            **self._speed(report, started),
        }

    def _take(self, report: StepReport, factor: float) -> float:
        """The optimizers' step; returns the gradient's norm before clipping, nan where there was no gradient."""
        if not report.has_gradient:
            self.parallel.skip()
            self.temperature.skip()
            return math.nan
        self.parallel.set_rate(factor)
        norm = self.parallel.step(self.training.max_norm)
        if math.isfinite(norm):
            self.temperature.step(factor)
        self.temperature.skip()
        return norm

    def _judge(self, step: int, problem: tuple[str, str] | None) -> None:
        """Record a step that changed nothing. Raises Fatal where the recipe says stop, or when they do not end."""
        self.bad_in_a_row = self.bad_in_a_row + 1 if problem else 0
        if problem is None:
            return
        reason, detail = problem
        self.log.reject({"step": step, "reason": reason, "detail": detail})
        if self.training.on_bad_step == "stop" or self.bad_in_a_row >= self.training.max_bad_steps:
            raise Fatal(
                f"Step {step} changed nothing: {detail} ({self.bad_in_a_row} such steps in a row).",
                "Lower learning_rate or raise temperature; on_bad_step and max_bad_steps say when training stops.",
            )

    def _reject(self, rejections: list[Rejection]) -> None:
        """Record rows that cannot be used. Raises Fatal where the recipe says stop."""
        for rejection in rejections:
            self.log.reject(asdict(rejection))
        if rejections and self.training.on_bad_row == "stop":
            bad = rejections[0]
            raise Fatal(
                f"Pair {bad.pair_id} of {bad.source} cannot be used: {bad.reason}: {bad.detail}.",
                f"{self.folder / REJECTIONS} names all that were found; `on_bad_row: skip` leaves them out.",
            )

    def _speed(self, report: StepReport, started: float) -> dict[str, float]:
        seconds = time.monotonic() - started
        return {"seconds": seconds, "tokens_per_s": report.real_tokens / seconds}

    def _write(self, record: dict[str, Any], on_progress: Progress) -> None:
        self.log.step(record)
        if self.parallel.main:
            write_json(self.folder / "progress.json", record | {"steps": self.training.steps})
            on_progress(record)

    # -- data --------------------------------------------------------------------------------------------------------

    def _measure(self, on_count: Callable[[int, int], None]) -> Lengths:
        counter = TokenCounter(self.backbone, self.training.objective == "ume")
        negatives, ranks = self.training.hard_negatives, self.parallel
        measure_lengths(self.data, counter, self.folder, negatives, ranks.rank, ranks.world, on_count)
        ranks.barrier()
        return load_lengths(self.data, counter, self.folder, negatives)

    def _loader(self, first: int) -> Loader:
        training, parallel = self.training, self.parallel
        batches = make_batches(training, self.data, self.lengths)
        settings = LoaderSettings(
            workers=training.loader_workers,
            negatives_per_query=training.hard_negatives,
            responses=training.objective == "ume",
        )
        return Loader(self.data, batches, self.encoder, first, training.steps, settings, parallel.rank, parallel.world)

    # -- evaluation --------------------------------------------------------------------------------------------------

    def _evaluate(self, step: int) -> None:
        """Score the held-out slice when it is time, and keep the best weights under `best/`."""
        every, last = self.training.evaluate_every, step == self.training.steps
        if not every or (step % every and not last):
            return
        best = best_evaluation(read_lines(self.folder / EVALUATIONS))
        with self.parallel.whole(self.parallel.module):
            scores = self._score()
        self.log.evaluation({"step": step, **scores})
        if self.parallel.most(int(best is None or scores["hit"] > best["hit"])):
            write_folder(self.folder / "best", self._export, self.ranks)

    def _score(self) -> dict[str, float]:
        records = self.data.held_out_rows()
        if self.training.objective == "dume":
            return look_at_slice(self.backbone, self.encoder, records, 0, mode="disc", ranks=self.ranks).scores
        tokens = self.training.evaluate_tokens
        scores = look_at_slice(self.backbone, self.encoder, records, tokens, ranks=self.ranks).scores
        return scores | cot_sensitivity(self.backbone, self.encoder, reasoned(records)).record()

    # -- what is kept ------------------------------------------------------------------------------------------------

    def _checkpoint(self, step: int) -> None:
        if step % self.training.checkpoint_every == 0 and step < self.training.steps:
            save_checkpoint(self.folder / "checkpoints", step, self.identity, self._save, self.ranks)

    def _save(self, place: Path) -> None:
        weights = place / "weights"
        if self.parallel.main:
            weights.mkdir()
        self.parallel.barrier()
        self.parallel.save(weights)
        own = {
            "random": asdict(RandomState.now()),
            "temperature": self.temperature.state(),
            "bad_in_a_row": self.bad_in_a_row,
        }
        torch.save(own, place / f"process-{self.parallel.rank}.pt")

    def _resume(self) -> int:
        found = newest_checkpoint(self.folder / "checkpoints", self.identity)
        if found is None:
            return 0
        step, place = found
        self.parallel.load(place / "weights")
        own = place / f"process-{self.parallel.rank}.pt"
        shared = torch.load(place / "process-0.pt", map_location="cpu", weights_only=True)
        self.temperature.load(shared["temperature"])
        self.bad_in_a_row = shared["bad_in_a_row"]
        if own.exists():
            RandomState(**torch.load(own, map_location="cpu", weights_only=True)["random"]).restore()
        else:  # more processes than wrote it: this one begins a random sequence of its own
            torch.manual_seed(self.training.seed + self.parallel.rank + step)
        return step

    def _export(self, place: Path) -> None:
        """A plain checkpoint of the whole weights."""
        state = self.parallel.full_state() if self.parallel.world > 1 else None
        if not self.parallel.main:
            return
        if state is not None:
            state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
        save_backbone(self.backbone, place, state)


def _problem(report: StepReport, norm: float) -> tuple[str, str] | None:
    """Why a step changed nothing: a reason and its detail."""
    if report.pairs == 0:
        return "no_pairs", "none of its rows could be used"
    if not math.isfinite(report.loss):
        return "loss_not_finite", f"loss {report.loss} (disc {report.disc}, gen {report.gen}, token {report.token})"
    if not math.isfinite(norm):
        return "gradient_not_finite", f"the gradient's norm is {norm}"
    return None
