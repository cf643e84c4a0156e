"""The folder of one training: begun, resumed, or set aside when it is of something else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from umer1_core.training.checkpoint import Identity, read_json, write_json
from umer1_core.training.ranks import Ranks
from umer1_core.training.watch.log import EVALUATIONS, REJECTIONS, STEPS, TENSORBOARD

_MADE = (
    "checkpoints", "model", "started.json", "progress.json", "finished.json",
    STEPS, EVALUATIONS, REJECTIONS, TENSORBOARD,
)  # fmt: skip


def begin(folder: Path, identity: Identity, made: Sequence[str], ranks: Ranks) -> None:
    """Make the folder ready on every rank; what a training of other data or settings left goes to `earlier/N/`.

    made: what a stage writes there beside what all stages write. It may have taken days, so nothing is deleted.
    """
    ranks.barrier()
    if ranks.main:
        folder.mkdir(parents=True, exist_ok=True)
        if not identity.matches(read_json(folder / "started.json")):
            _set_aside(folder, (*_MADE, *made))
            write_json(folder / "started.json", identity.record())
    ranks.barrier()


def _set_aside(folder: Path, made: Sequence[str]) -> None:
    left = [folder / name for name in made if (folder / name).exists()]
    if not left:
        return
    earlier = folder / "earlier"
    place = earlier / str(len(list(earlier.glob("*"))) + 1)
    place.mkdir(parents=True)
    for item in left:
        item.rename(place / item.name)
