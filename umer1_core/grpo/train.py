"""Stage 2: GRPO with an embedding reward, from the student of stage 1, on the `rl` table (UME-R1 section 3.3).

    train(Store("runs/miniature/v1"), recipe.grpo, "runs/miniature/v1/sft/model", "runs/miniature/v1/grpo")

Guarantees: killed at any moment and started again, it goes on from the newest whole checkpoint along the same curve; a
finished training is not repeated; a pair that cannot be used is named in `rejections.jsonl` and weighs nothing; a guard
that sees a collapse ends the training, and `model/` is then the last checkpoint from before it. The folder:
`checkpoints/`, `model/`, `rollouts/`, `losses.jsonl`, `evaluations.jsonl`, `held_out/`, `tensorboard/`,
`report.md`, `report.json`, `finished.json`; what other settings had made is kept under `earlier/`.

Every process that a launcher started calls `train` with the same arguments.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from transformers import PrinterCallback

from schemas.grpo import Grpo
from umer1_core.backbone.collate import Encoder
from umer1_core.backbone.model import Backbone, checkpoint_hash, freeze_vision, load_backbone, save_backbone
from umer1_core.grpo.held_out import FOLDER as HELD_OUT
from umer1_core.grpo.held_out import REPORT_JSON, HeldOutWatch
from umer1_core.grpo.loop import Loop, Progress
from umer1_core.grpo.pairs import RLPairs, make_order
from umer1_core.grpo.setup import make_rewards, make_rollouts, reward_weights, trainer_arguments
from umer1_core.grpo.sides import SideReader
from umer1_core.grpo.trainer import EmbeddingGRPOTrainer, Parts
from umer1_core.grpo.watch.guards import Guards
from umer1_core.grpo.watch.rollout_table import FOLDER as ROLLOUTS
from umer1_core.grpo.watch.rollout_table import RolloutTable
from umer1_core.store import Store, fingerprint
from umer1_core.training.checkpoint import Identity, marked_checkpoints, read_json, write_folder, write_json
from umer1_core.training.folder import begin
from umer1_core.training.machine import one_thread
from umer1_core.training.outcome import REPORT
from umer1_core.training.ranks import Ranks, join_ranks
from umer1_core.training.watch.log import STEPS, RunLog, read_lines
from umer1_core.training.watch.sheets import GRPO

# A training may be resumed with these changed: they say how it is run, not what it is of.
_NO_EFFECT = {
    "enabled", "preset", "accelerate", "checkpoint_every", "micro_pairs", "evaluate_every", "evaluate_tokens",
    "on_bad_row", "guards", "rollouts", "server", "server_weights", "vllm_memory",
}  # fmt: skip
_MADE = (ROLLOUTS, HELD_OUT, REPORT, REPORT_JSON)
# Processes may hold parts of the weights each.
_IN_PARTS = (DistributedType.FSDP, DistributedType.DEEPSPEED)


@dataclass(frozen=True, slots=True)
class GrpoReport:
    """model: folder of the trained checkpoint, of `steps` steps; stopped: why a guard ended it before `grpo.steps`."""

    model: str
    base: str
    steps: int
    resumed_from: int
    rejected_pairs: int
    seconds: float
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """SFT's slice of `cold_start`, which neither stage trains on."""

    pairs: int = 0
    seed: int = 0


def train(
    store: Store, grpo: Grpo, base: str, directory: str, held_out: HeldOut, on_progress: Progress | None = None
) -> GrpoReport:
    """Train, or go on training, in `directory`. base: the checkpoint of stage 1, which is also the reference.

    on_progress: called on one process with each step's record. Raises Fatal where the recipe says that training stops.
    """
    ranks = join_ranks()
    folder, pairs = Path(directory), RLPairs(store, held_out.pairs, held_out.seed)
    made_of = fingerprint(grpo.model_dump(exclude=_NO_EFFECT), checkpoint_hash(base), asdict(held_out))
    identity = Identity(pairs.data_hash, made_of)
    finished = read_json(folder / "finished.json")
    if finished is not None and identity.matches(finished) and not _may_go_on(finished, grpo):
        return GrpoReport(**finished["report"])
    begin(folder, identity, _MADE, ranks)
    if ranks.main:
        (folder / "finished.json").unlink(missing_ok=True)  # it goes on
    started = time.monotonic()
    with one_thread(ranks.device):
        run = _Run(grpo, base, folder, pairs, identity, ranks, on_progress or _silent)
        report = run.report(started)
    if ranks.main:
        began = {"base_hash": checkpoint_hash(base), "guards": grpo.guards.model_dump()}
        write_json(folder / "finished.json", {**identity.record(), **began, "report": asdict(report)})
    ranks.barrier()
    return report


class _Run:
    """One training on one process, from where it was left to its end."""

    def __init__(
        self,
        grpo: Grpo,
        base: str,
        folder: Path,
        pairs: RLPairs,
        identity: Identity,
        ranks: Ranks,
        on_progress: Progress,
    ) -> None:
        self.grpo, self.base, self.folder, self.pairs, self.identity = grpo, base, folder, pairs, identity
        self.ranks, self.on_progress = ranks, on_progress
        self.checkpoints = folder / "checkpoints"
        marked = marked_checkpoints(self.checkpoints, identity)
        self.first = marked[-1][0] if marked else 0
        self.resumed = str(marked[-1][1]) if marked else None
        torch.manual_seed(grpo.seed)
        self.backbone = _policy(base, grpo)
        self._train()

    def report(self, started: float) -> GrpoReport:
        return GrpoReport(
            model=str(self.folder / "model"),
            base=self.base,
            steps=self.steps,
            resumed_from=self.first,
            rejected_pairs=self.rejected,
            seconds=time.monotonic() - started,
            stopped=self.loop.stopped.message if self.loop.stopped else "",
        )

    def _train(self) -> None:
        grpo, ranks = self.grpo, self.ranks
        self._drop_unmarked()
        order = make_order(self.pairs, grpo.block_pairs, grpo.group, ranks.world, grpo.seed, grpo.source_weights)
        sides = SideReader(self.pairs, Encoder(self.backbone, grpo.max_prompt_tokens))
        rollouts = make_rollouts(grpo, self.backbone, self.folder, ranks)
        table = RolloutTable(self.folder / ROLLOUTS, self.first) if ranks.main else None
        try:
            with RunLog(self.folder, self.first, ranks.main, GRPO) as log:
                self.watch = HeldOutWatch(grpo, self.pairs.held_out, self.folder, log, ranks)
                guards = Guards(grpo.guards, read_lines(self.folder / STEPS))
                self.loop = Loop(
                    grpo, self.folder, self.identity, order, log, table, guards, ranks,
                    self.backbone.ids.end_of_turn, self._evaluate, self.on_progress,
                )  # fmt: skip
                parts = Parts(
                    self.backbone, grpo, self.pairs, order, sides, rollouts, make_rewards(grpo), reward_weights(grpo),
                    ranks, self._save_policy, self.loop.reject, self.loop.block,
                )  # fmt: skip
                arguments = trainer_arguments(grpo, self.checkpoints, ranks.world)
                self.trainer = EmbeddingGRPOTrainer(parts, arguments, [self.loop])
                self.trainer.remove_callback(PrinterCallback)  # the log and `on_progress` tell the same
                self.loop.trainer = self.trainer
                self.watch.before(self.backbone)  # which learns, or gets a checkpoint's weights, only now
                self.trainer.train(resume_from_checkpoint=self.resumed)
                self.steps = self.trainer.state.global_step
                self.rejected = log.rejected_rows
                self._export()
                self._report()
        finally:
            sides.close()
            rollouts.close()

    def _export(self) -> None:
        """The trained weights; where a guard ended the training, those of the last checkpoint before its window."""
        stopped = self.loop.stopped
        if stopped is None:
            write_folder(self.folder / "model", self._save_policy, self.ranks)
            return
        good = [
            m
            for m in marked_checkpoints(self.checkpoints, self.identity)
            if m[0] <= stopped.step - self.grpo.guards.window
        ]
        self.steps, place = good[-1] if good else (0, Path(self.base))
        if self.ranks.main:  # with other limits it goes on from the kept one
            for step, later in marked_checkpoints(self.checkpoints, self.identity):
                if step > self.steps:
                    shutil.rmtree(later)

        def fill(target: Path) -> None:
            if self.ranks.main and good:
                self.backbone.processor.save_pretrained(place)  # TRL writes the weights and the tokenizer alone
                save_backbone(load_backbone(str(place)), target)
            elif self.ranks.main:
                save_backbone(_policy(self.base, self.grpo), target)

        write_folder(self.folder / "model", fill, self.ranks)

    def _save_policy(self, place: Path) -> None:
        """A plain checkpoint of the policy's present weights; every rank calls it."""
        state = self.trainer.accelerator.get_state_dict(self.trainer.model) if self.ranks.world > 1 else None
        if self.ranks.main:
            save_backbone(self.backbone, place, state)

    def _drop_unmarked(self) -> None:
        """What a kill left half-written: TRL would count it among its checkpoints."""
        if self.ranks.main:
            whole = {place for _, place in marked_checkpoints(self.checkpoints, self.identity)}
            for place in self.checkpoints.glob("checkpoint-*"):
                if place not in whole:
                    shutil.rmtree(place)
        self.ranks.barrier()

    def _evaluate(self, step: int) -> None:
        """The slice after `step` steps; every rank calls it."""
        if not self.watch.wanted:
            return
        if not self._in_parts:
            self.watch.during(self.backbone, step)
            return
        # Processes that generate each for itself would wait for each other's layers: they do so with a copy.
        place = self.folder / HELD_OUT / "policy"
        write_folder(place, self._save_policy, self.ranks)
        self.watch.during(load_backbone(str(place)), step)
        if self.ranks.main:
            shutil.rmtree(place)

    def _report(self) -> None:
        """What `model/` gives on the slice."""
        if not self.watch.wanted:
            return
        stopped = self.loop.stopped
        present = stopped is None and not self._in_parts
        model = self.backbone if present else load_backbone(str(self.folder / "model"))
        self.watch.after(model, self.steps, stopped.message if stopped else "")

    @property
    def _in_parts(self) -> bool:
        return self.trainer.accelerator.distributed_type in _IN_PARTS


def _may_go_on(finished: dict[str, Any], grpo: Grpo) -> bool:
    """Whether a guard ended the training that has other limits now."""
    return bool(finished["report"]["stopped"]) and finished["guards"] != grpo.guards.model_dump()


def _policy(base: str, grpo: Grpo) -> Backbone:
    """The student of stage 1, with the library's own attention, by which TRL loads the reference beside it."""
    backbone = load_backbone(base, "sdpa")
    if grpo.freeze_vision:
        freeze_vision(backbone)
    return backbone


def _silent(record: dict[str, object]) -> None:
    """Nobody watches."""
