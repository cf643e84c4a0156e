"""Stage 1: fine-tune a student on a validated `cold_start` table (UME-R1 section 3.3).

    train(Store("runs/miniature/v1"), recipe.training, "runs/miniature/v1/sft")

Guarantees: killed at any moment and started again, it goes on from the newest complete checkpoint along the same
trajectory; a finished training is not repeated; a row that cannot be used is skipped with its reason in
`rejections.jsonl`, never replaced by its neighbour. The folder: `base/` (untrained), `checkpoints/`, `model/`,
`losses.jsonl`, `progress.json`, `finished.json`; what other settings had made is kept under `earlier/`.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from schemas.recipe import Training
from umer1_core.backbone.collate import Encoder
from umer1_core.backbone.model import Backbone, load_backbone, save_backbone
from umer1_core.errors import BadInput
from umer1_core.miniature.student import build_student
from umer1_core.pairs import Media, media_from_record
from umer1_core.sft.checkpoint import (
    Identity,
    cut_log,
    load_checkpoint,
    read_json,
    save_checkpoint,
    write_folder,
    write_json,
)
from umer1_core.sft.data import ColdStart, Place, batch_of_step
from umer1_core.sft.optimizer import make_optimizers, rate_factor, set_rate
from umer1_core.sft.step import LossSettings, PairRows, StepLosses, sft_step
from umer1_core.store import Store, fingerprint

MINIATURE = "miniature"
_MAX_NORM = 1.0
_BLOCKS_PER_BATCH = 2
_NO_EFFECT = {"enabled", "checkpoint_every"}
_RECORDS = ("started.json", "losses.jsonl", "rejections.jsonl", "progress.json", "finished.json")
_MADE = ("base", "checkpoints", "model", *_RECORDS)

Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class TrainReport:
    """model: folder of the trained checkpoint; resumed_from: steps that were already done; loss: of the last step."""

    model: str
    base: str
    steps: int
    resumed_from: int
    rejected_rows: int
    loss: float
    seconds: float


def train(store: Store, training: Training, directory: str, on_progress: Progress | None = None) -> TrainReport:
    """Train, or go on training, in `directory`. on_progress: called with (steps done, steps, losses)."""
    folder, data = Path(directory), ColdStart(store)
    identity = Identity(data.data_hash, fingerprint(training.model_dump(exclude=_NO_EFFECT)))
    finished = read_json(folder / "finished.json")
    if finished is not None and identity.matches(finished):
        return TrainReport(**finished["report"])
    folder.mkdir(parents=True, exist_ok=True)
    if not identity.matches(read_json(folder / "started.json")):
        _set_aside(folder)
        write_json(folder / "started.json", identity.record())
    with _one_thread():
        report = _Training(data, training, folder, identity).run(on_progress or _silent)
    write_json(folder / "finished.json", {**identity.record(), "report": asdict(report)})
    return report


class _Training:
    """The state of one training: model, optimizers, step."""

    def __init__(self, data: ColdStart, training: Training, folder: Path, identity: Identity) -> None:
        self.data, self.training, self.folder, self.identity = data, training, folder, identity
        torch.manual_seed(training.seed)
        self.base = _base_model(data, training, folder)
        self.backbone = _prepare(load_backbone(self.base), training)
        self.encoder = Encoder(self.backbone, training.max_tokens)
        self.optimizers = make_optimizers(self.backbone.model, training)
        self.settings = LossSettings(
            training.temperature, training.direction, training.token_loss, training.response_noise
        )
        self.rejected: dict[str, BadInput] = {}

    def run(self, on_progress: Progress) -> TrainReport:
        started, first = time.monotonic(), self._resume()
        losses = {"loss": 0.0}
        with open(self.folder / "losses.jsonl", "a", buffering=1) as log:
            for step in range(first, self.training.steps):
                losses = self._step(step)
                done = step + 1
                log.write(json.dumps({"step": done, **losses}) + "\n")
                on_progress(done, self.training.steps, losses)
                if done % self.training.checkpoint_every == 0 and done < self.training.steps:
                    save_checkpoint(self.folder / "checkpoints", done, self.identity, self._state())
                write_json(self.folder / "progress.json", {"step": done, "steps": self.training.steps, **losses})
        write_folder(self.folder / "model", lambda place: save_backbone(self.backbone, place))
        return TrainReport(
            model=str(self.folder / "model"),
            base=self.base,
            steps=self.training.steps,
            resumed_from=first,
            rejected_rows=len(self.rejected),
            loss=losses["loss"],
            seconds=time.monotonic() - started,
        )

    def _step(self, step: int) -> dict[str, float]:
        block = max(2, self.training.batch_pairs // _BLOCKS_PER_BATCH)
        epoch, places = batch_of_step(self.data, step, self.training.batch_pairs, block, self.training.seed)
        rate = self.training.learning_rate * rate_factor(self.training, step)
        set_rate(self.optimizers, rate)
        pairs = [pair for place in places if (pair := self._encode(place)) is not None]
        result, norm = StepLosses(0.0, 0.0, 0.0, 0.0, 0), 0.0
        if pairs:
            result = sft_step(self.backbone, pairs, self.settings)
            norm = float(torch.nn.utils.clip_grad_norm_(self.backbone.model.parameters(), _MAX_NORM))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return {**asdict(result), "grad_norm": norm, "rate": rate, "epoch": epoch, "pairs": len(pairs)}

    def _encode(self, place: Place) -> PairRows | None:
        row = self.data.row(place)
        try:
            sides = [
                self.encoder.encode(row[f"{s}_prompt"], _media(row[f"{s}_media"]), row[f"{s}_response"])
                for s in ("query", "target")
            ]
        except BadInput as error:
            self._reject(row, error)
            return None
        return PairRows(sides[0], sides[1], row["query_key"], row["target_key"])

    def _reject(self, row: dict[str, Any], error: BadInput) -> None:
        if row["pair_id"] in self.rejected:
            return
        self.rejected[row["pair_id"]] = error
        record = {"pair_id": row["pair_id"], "source": row["source"], "reason": error.reason, "detail": error.detail}
        with open(self.folder / "rejections.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.backbone.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "random": torch.get_rng_state(),
        }

    def _resume(self) -> int:
        found = load_checkpoint(self.folder / "checkpoints", self.identity)
        step = 0
        if found is not None:
            step, state = found
            self.backbone.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            torch.set_rng_state(state["random"])
        cut_log(self.folder / "losses.jsonl", step)
        return step


def _base_model(data: ColdStart, training: Training, folder: Path) -> str:
    """Where training starts: the named checkpoint, or a fresh miniature student built once."""
    if training.model != MINIATURE:
        return training.model
    base = folder / "base"
    if not base.exists():
        write_folder(base, lambda place: build_student(place, training.seed, data.texts()))
    return str(base)


def _prepare(backbone: Backbone, training: Training) -> Backbone:
    """Freeze the vision tower but for its merger, as released; save memory on a GPU."""
    model = backbone.model.train()
    if training.model == MINIATURE:
        return backbone
    if training.freeze_vision:
        model.model.visual.requires_grad_(False)
        model.model.visual.merger.requires_grad_(True)
    if backbone.device.type == "cuda":
        model.gradient_checkpointing_enable()
    return backbone


def _set_aside(folder: Path) -> None:
    """Keep what a training of other data or settings left under `earlier/N/`: it may have taken days."""
    left = [folder / name for name in _MADE if (folder / name).exists()]
    if not left:
        return
    earlier = folder / "earlier"
    place = earlier / str(len(list(earlier.glob("*"))) + 1)
    place.mkdir(parents=True)
    for made in left:
        made.rename(place / made.name)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One CPU thread: two give other sums, and cost three times the CPU on a model this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _media(records: list[dict[str, Any]]) -> tuple[Media, ...]:
    return tuple(media_from_record(record) for record in records)


def _silent(step: int, steps: int, losses: dict[str, float]) -> None:
    """Nobody watches."""
