"""Stage 2: GRPO with an embedding reward, from the student of stage 1, on the `rl` table (UME-R1 section 3.3).

    train(Store("runs/miniature/v1"), recipe.grpo, "runs/miniature/v1/sft/model", "runs/miniature/v1/grpo")

Guarantees: killed at any moment and started again, it goes on from the newest whole checkpoint along the same curve; a
finished training is not repeated; a pair that cannot be used is named in `rejections.jsonl` and weighs nothing; a guard
that sees a collapse ends the training, and `model/` is then the last checkpoint from before it. The folder:
`checkpoints/`, `model/`, `rollouts/`, `losses.jsonl`, `evaluations.jsonl`, `tensorboard/`, `report.md`,
`finished.json`; what other settings had made is kept under `earlier/`.

Every process that a launcher started calls `train` with the same arguments.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from schemas.grpo import Grpo
from umer1_core.backbone.collate import Encoder
from umer1_core.backbone.model import Backbone, checkpoint_hash, freeze_vision, load_backbone, save_backbone
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
from umer1_core.training.ranks import Ranks, join_ranks
from umer1_core.training.watch.log import STEPS, RunLog, read_lines
from umer1_core.training.watch.sheets import GRPO

# A training may be resumed with these changed: they say how it is run, not what it is of.
_NO_EFFECT = {
    "enabled", "preset", "accelerate", "checkpoint_every", "micro_pairs", "evaluate_every", "evaluate_tokens",
    "on_bad_row", "guards", "rollouts", "server", "server_weights",
}  # fmt: skip
_MADE = (ROLLOUTS, "report.md", "report.json")


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
    if finished is not None and identity.matches(finished):
        return GrpoReport(**finished["report"])
    begin(folder, identity, _MADE, ranks)
    started = time.monotonic()
    with one_thread(ranks.device):
        run = _Run(grpo, base, folder, pairs, identity, ranks, on_progress or _silent)
        report = run.report(started)
    if ranks.main:
        write_json(folder / "finished.json", {**identity.record(), "report": asdict(report)})
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
        order = make_order(self.pairs, grpo.block_pairs, grpo.group, ranks.world, grpo.seed)
        sides = SideReader(self.pairs, Encoder(self.backbone, grpo.max_prompt_tokens))
        rollouts = make_rollouts(grpo, self.backbone, self.folder, ranks)
        table = RolloutTable(self.folder / ROLLOUTS, self.first) if ranks.main else None
        try:
            with RunLog(self.folder, self.first, ranks.main, GRPO) as log:
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
                self.loop.trainer = self.trainer
                self.trainer.train(resume_from_checkpoint=self.resumed)
                self.steps = self.trainer.state.global_step
                self.rejected = log.rejected_rows
                self._export()
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

        def fill(target: Path) -> None:
            if self.ranks.main:
                save_backbone(load_backbone(str(place)) if good else _policy(self.base, self.grpo), target)

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
        """Filled by the slice."""


def _policy(base: str, grpo: Grpo) -> Backbone:
    """The student of stage 1, with the library's own attention, by which TRL loads the reference beside it."""
    backbone = load_backbone(base, "sdpa")
    if grpo.freeze_vision:
        freeze_vision(backbone)
    return backbone


def _silent(record: dict[str, object]) -> None:
    """Nobody watches."""
