"""Stage 1: fine-tune a student on a validated `cold_start` table (UME-R1 section 3.3).

    train(Store("runs/miniature/v1"), recipe.training, "runs/miniature/v1/sft")

Guarantees: killed at any moment and started again, it goes on from the newest complete checkpoint along the same
trajectory; a finished training is not repeated; a row that cannot be used is skipped with its reason in
`rejections.jsonl`, never replaced by its neighbour. The folder: `base/` (untrained), `lengths/`, `checkpoints/`,
`best/` (by the held-out slice), `model/`, `losses.jsonl`, `evaluations.jsonl`, `tensorboard/`, `progress.json`,
`finished.json`; what other settings had made is kept under `earlier/`.

Every process that a launcher started calls `train` with the same arguments.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from schemas.training import Training
from umer1_core.miniature.student import build_student
from umer1_core.sft.setup import MINIATURE
from umer1_core.sft.trainer import Progress, Trainer
from umer1_core.store import Store, fingerprint
from umer1_core.training.checkpoint import Identity, read_json, write_folder, write_json
from umer1_core.training.data.cold_start import ColdStart
from umer1_core.training.folder import begin
from umer1_core.training.machine import one_thread
from umer1_core.training.ranks import Ranks, join_ranks
from umer1_core.training.watch.log import EVALUATIONS, best_evaluation, read_lines

# A training may be resumed with these changed: they say how it is run, not what it is of.
_NO_EFFECT = {
    "enabled", "preset", "accelerate", "checkpoint_every", "loader_workers", "pack_tokens", "layout", "reuse_features",
    "on_bad_row", "on_bad_step", "max_bad_steps", "evaluate_every", "evaluate_tokens",
}  # fmt: skip
_MADE = ("base", "best")


@dataclass(frozen=True, slots=True)
class TrainReport:
    """model: folder of the trained checkpoint; resumed_from: steps that were already done; loss: of the last step.

    best: folder of the checkpoint with the best held-out hit@1, after `best_step` steps; empty without evaluation.
    """

    model: str
    base: str
    steps: int
    resumed_from: int
    rejected_rows: int
    loss: float
    seconds: float
    best: str = ""
    best_step: int = 0


def train(
    store: Store,
    training: Training,
    directory: str,
    on_progress: Progress | None = None,
    on_count: Callable[[int, int], None] | None = None,
) -> TrainReport:
    """Train, or go on training, in `directory`.

    on_progress: called on one process with each step's record; on_count: before the first step, while the rows' tokens
    are counted, with (rows done, rows) of this process. Raises Fatal where the recipe says that training stops.
    """
    ranks = join_ranks()
    folder = Path(directory)
    data = ColdStart(store, training.held_out_pairs, training.seed, training.rl_apart)
    identity = Identity(data.data_hash, fingerprint(training.model_dump(exclude=_NO_EFFECT)))
    finished = read_json(folder / "finished.json")
    if finished is not None and identity.matches(finished):
        return TrainReport(**finished["report"])
    begin(folder, identity, _MADE, ranks)
    started = time.monotonic()
    with one_thread(ranks.device), _quiet():
        base = _base_model(data, training, folder, ranks)
        trainer = Trainer(data, training, base, folder, identity, ranks, on_count or _uncounted)
        first, last, rejected = trainer.run(on_progress or _silent)
    best = best_evaluation(read_lines(folder / EVALUATIONS))
    report = TrainReport(
        model=str(folder / "model"),
        base=base,
        steps=training.steps,
        resumed_from=first,
        rejected_rows=rejected,
        loss=last["loss"],
        seconds=time.monotonic() - started,
        best=str(folder / "best") if best else "",
        best_step=best["step"] if best else 0,
    )
    if ranks.main:
        write_json(folder / "finished.json", {**identity.record(), "report": asdict(report)})
    ranks.barrier()
    return report


def _base_model(data: ColdStart, training: Training, folder: Path, ranks: Ranks) -> str:
    """Where training starts: the named checkpoint, or a fresh miniature student built once."""
    if training.model != MINIATURE:
        return training.model
    base = folder / "base"
    if not base.exists():

        def fill(place: Path) -> None:
            if ranks.main:
                build_student(place, training.seed, data.texts())

        write_folder(base, fill, ranks)
    return str(base)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings of its own coming names, and of checkpoints that one process writes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.distributed")
        yield


def _uncounted(done: int, total: int) -> None:
    """Nobody watches."""


def _silent(record: dict[str, Any]) -> None:
    """Nobody watches."""
