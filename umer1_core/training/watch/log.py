"""What a training writes down of itself: steps, evaluations, rejections, and the numbers again for TensorBoard.

    with RunLog(folder, done=1_000) as log:
        log.step({"step": 1_001, "loss": 1.2, ...})

Guarantees: every line is on its way to the disk before the next step begins; a log that is opened after `done` steps
holds nothing of later ones and no half-written line, so a training that was killed and resumed leaves the log of one
that was not; a rejected pair stands once; numbers that are not finite are null. Only the process that `writes` touches
the disk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import orjson
from torch.utils.tensorboard import SummaryWriter

from umer1_core.training.checkpoint import write_file
from umer1_core.training.watch.sheet import Record, Sheet
from umer1_core.training.watch.sheets import SFT

STEPS, EVALUATIONS, REJECTIONS = "losses.jsonl", "evaluations.jsonl", "rejections.jsonl"
TENSORBOARD = "tensorboard"


class RunLog:
    """The log of one training in `folder`, opened after `done` steps; sheet: of its stage."""

    def __init__(self, folder: Path, done: int = 0, writes: bool = True, sheet: Sheet = SFT) -> None:
        self._folder, self._writes, self._sheet = folder, writes, sheet
        self._files: dict[str, IO[bytes]] = {}
        self._board: SummaryWriter | None = None
        self._rejected: set[str] = set()
        if not writes:
            return
        for name in (STEPS, EVALUATIONS, REJECTIONS):
            cut_lines(folder / name, done)
        self._rejected = {line["pair_id"] for line in read_lines(folder / REJECTIONS) if "pair_id" in line}
        self._board = SummaryWriter(str(folder / TENSORBOARD), purge_step=done + 1)

    @property
    def rejected_rows(self) -> int:
        """Distinct pairs that were rejected, also before an interruption."""
        return len(self._rejected)

    def step(self, record: Record) -> None:
        """A step that was done; `step` counts from one."""
        self._write(STEPS, record)
        self._draw({tag: record[name] for name, tag in self._sheet.scalars.items() if name in record}, record["step"])

    def evaluation(self, record: Record) -> None:
        """Scores on the held-out slice after `step` steps."""
        self._write(EVALUATIONS, record)
        self._draw({f"eval/{name}": value for name, value in record.items() if name != "step"}, record["step"])

    def reject(self, record: Record) -> None:
        """A row (`pair_id`, `source`) or a whole step (`step`) that was left out, with its `reason` and `detail`.

        A pair that is already on record is not written again.
        """
        if "pair_id" in record:
            if record["pair_id"] in self._rejected:
                return
            self._rejected.add(record["pair_id"])
        self._write(REJECTIONS, record)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, name: str, record: Record) -> None:
        if not self._writes:
            return
        if name not in self._files:
            self._files[name] = open(self._folder / name, "ab", buffering=0)
        self._files[name].write(orjson.dumps(dict(record), option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")

    def _draw(self, scalars: Record, step: int) -> None:
        if self._board is None:
            return
        for tag, value in scalars.items():
            if isinstance(value, int | float) and math.isfinite(value):
                self._board.add_scalar(tag, value, step)
        self._board.flush()


def cut_lines(path: Path, done: int) -> None:
    """Drop the lines of steps after `done`, which a resumed training does again, and a half-written last line."""
    if not path.exists():
        return
    kept = [line for line in read_lines(path) if line.get("step", 0) <= done]
    write_file(path, b"".join(orjson.dumps(line) + b"\n" for line in kept))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a log, also while it is written: a last line without its end is not seen. No file, no records."""
    if not path.exists():
        return []
    return [orjson.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"}\n")]


def best_evaluation(evaluations: Iterable[Record]) -> Record | None:
    """The one with the highest `hit`, the earliest of equals; None where nothing was evaluated."""
    return max((e for e in evaluations if e.get("hit") is not None), key=lambda e: e["hit"], default=None)


def terms(record: Record, sheet: Sheet = SFT) -> str:
    """A step in a line, as its stage's sheet says. Terms that a record does not have are left out."""
    return "step skipped" if record.get("skipped") else sheet.line(record)
