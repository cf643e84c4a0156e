"""Around TRL's steps: records, guards, evaluations of the held-out slice, checkpoints that are known to be whole."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from schemas.grpo import Grpo
from umer1_core.errors import Fatal
from umer1_core.grpo.pairs import BlockOrder
from umer1_core.grpo.records import neighbours, rollout_records, step_numbers
from umer1_core.grpo.trainer import EmbeddingGRPOTrainer, Metrics, Scores
from umer1_core.grpo.watch.guards import Guards, Stop
from umer1_core.grpo.watch.rollout_table import RolloutTable
from umer1_core.training.checkpoint import Identity, mark_complete, write_json
from umer1_core.training.data.pair_table import Rejection
from umer1_core.training.machine import peak_memory_gb
from umer1_core.training.ranks import Ranks
from umer1_core.training.watch.log import REJECTIONS, RunLog

Progress = Callable[[dict[str, Any]], None]
Evaluate = Callable[[int], None]

# TRL's name of a number, and ours.
_FROM_TRL = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "rate",
    "reward": "reward",
    "kl": "kl",
    "entropy": "entropy",
    "clip_ratio/region_mean": "clip",
}
_OWN = (
    "format", "ranking", "gap", "embedding", "hit", "group_std", "embedding_std", "zero_std", "tokens", "truncated",
    "rollouts", "rejected", "sampler_gap", "anchor",
)  # fmt: skip


class Loop(TrainerCallback):
    """One training's callbacks. `stopped`: what a guard found, where one ended the training."""

    def __init__(
        self,
        grpo: Grpo,
        folder: Path,
        identity: Identity,
        order: BlockOrder,
        log: RunLog,
        table: RolloutTable | None,
        guards: Guards,
        ranks: Ranks,
        end_of_turn: int,
        evaluate: Evaluate,
        on_progress: Progress,
    ) -> None:
        self.grpo, self.folder, self.identity, self.order = grpo, folder, identity, order
        self.log, self.table, self.guards, self.ranks = log, table, guards, ranks
        self.end_of_turn, self.evaluate, self.on_progress = end_of_turn, evaluate, on_progress
        self.trainer: EmbeddingGRPOTrainer | None = None
        self.stopped: Stop | None = None
        self._started = time.monotonic()

    # -- what the trainer calls --------------------------------------------------------------------------------------

    def reject(self, rejection: Rejection) -> None:
        """Record a pair that cannot be used. Raises Fatal where the recipe says stop."""
        self.log.reject(asdict(rejection))
        if self.grpo.on_bad_row == "stop":
            raise Fatal(
                f"Pair {rejection.pair_id} of {rejection.source} cannot be used: "
                f"{rejection.reason}: {rejection.detail}.",
                f"{self.folder / REJECTIONS} names all that were found; `on_bad_row: skip` leaves them out.",
            )

    def block(self, scores: Scores) -> Metrics:
        """A block's numbers; its rollouts go to the table."""
        near = neighbours(scores)
        if self.table is not None and self.trainer is not None:
            step = self.trainer.state.global_step + 1
            self.table.write(step, rollout_records(scores, near, self.end_of_turn))
        return step_numbers(scores, near, self.end_of_turn)

    # -- what TRL calls ----------------------------------------------------------------------------------------------

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started = time.monotonic()
        if self.trainer is not None:
            self.trainer.seconds = dict.fromkeys(self.trainer.seconds, 0.0)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Where no pair of a block could be used nothing moves, also not by momentum or weight decay."""
        if self.trainer is not None and self.trainer.nothing_used:
            model.zero_grad(set_to_none=True)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return  # the summary at the end
        record = self._record(state.global_step, logs)
        self.log.step(record)
        if self.ranks.main:
            write_json(self.folder / "progress.json", record | {"steps": self.grpo.steps})
            self.on_progress(record)
        self.stopped = self.guards.check(record)
        if self.stopped is not None:
            control.should_training_stop = True
            control.should_save = False
            return
        every = self.grpo.evaluate_every
        if every and state.global_step % every == 0 and state.global_step < self.grpo.steps:
            self.evaluate(state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        place = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        mark_complete(place, state.global_step, self.identity, self.ranks)

    def _record(self, step: int, logs: dict[str, float]) -> dict[str, Any]:
        seconds = time.monotonic() - self._started
        spent = self.trainer.seconds if self.trainer is not None else {}
        record: dict[str, Any] = {"step": step, "epoch": self.order.epoch((step - 1) // self.grpo.updates_per_block)}
        record |= {ours: _number(logs.get(name)) for name, ours in _FROM_TRL.items() if name in logs}
        record |= {name: _number(logs.get(name)) for name in _OWN if name in logs}
        return record | {
            "seconds": seconds,
            **spent,
            "train_s": max(0.0, seconds - sum(spent.values())),
            "memory_gb": peak_memory_gb(self.ranks.device),
        }


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
