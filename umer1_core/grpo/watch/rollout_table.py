"""Every rollout with its reward, a Parquet file a step, to be looked at later.

    table = RolloutTable(folder / "rollouts", done=120)
    table.write(121, records)

Guarantees: a step's file is there whole or not at all; a table opened after `done` steps holds nothing of later ones,
so a training that was killed and resumed leaves what one would that was not. Rows are schemas.tables.ROLLOUTS; any
reader of Parquet takes the folder as one table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from schemas.tables import ROLLOUTS
from umer1_core.errors import StorageError
from umer1_core.store import Store

FOLDER = "rollouts"
SideName = Literal["query", "target"]
_FILE = re.compile(r"step-(\d+)\.parquet")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A group of the other side. similarity: mean inner product of a rollout with that group's valid rollouts."""

    pair_id: str
    similarity: float


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """One rollout. rollout: its place in the group, from 0; text: as written; tokens: how many, the end of the turn
    included; ended: it wrote that end itself; problem: why it has no good form, or empty.

    format, ranking, gap, embedding_reward: the components; reward: their total; advantage: what the policy was trained
    with. hit: the nearest group of the other side is a right one; nearest: those groups, the nearest first.
    """

    pair_id: str
    source: str
    modality: str
    side: SideName
    side_key: str
    rollout: int
    text: str
    problem: str
    tokens: int
    ended: bool
    format: float
    ranking: float
    gap: float
    embedding_reward: float
    reward: float
    advantage: float
    hit: bool
    nearest: tuple[Neighbour, ...] = ()


class RolloutTable:
    """The rollouts of one training in `folder`.

    done: steps that the training goes on from; files of later steps, and what a killed writer left, are dropped. None:
    only to look. Of several processes one writes, and gives `done`.
    """

    def __init__(self, folder: Path, done: int | None = None) -> None:
        self.folder = folder
        self._store = Store(str(folder))
        if done is None:
            return
        self._store.sweep()
        for step in self.steps():
            if step > done:
                self._file(step).unlink()

    def write(self, step: int, records: Sequence[RolloutRecord]) -> None:
        """A step's rollouts; a step that is written again is replaced. Raises StorageError where it cannot."""
        rows = [{"step": step, **asdict(record)} for record in records]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=ROLLOUTS), sink, compression="zstd")
        self._store.write_bytes(self._file(step).name, sink.getvalue().to_pybytes())

    def steps(self) -> list[int]:
        """The steps that have a file, in order."""
        found = (_FILE.fullmatch(file.name) for file in self.folder.glob("step-*.parquet"))
        return sorted(int(match[1]) for match in found if match)

    def read(self, step: int) -> list[RolloutRecord]:
        """A step's rollouts in the order they were written. Raises StorageError where there are none to read."""
        try:
            rows = pq.read_table(self._file(step), schema=ROLLOUTS).drop_columns(["step"]).to_pylist()
        except (pa.ArrowInvalid, FileNotFoundError) as error:
            raise StorageError(
                f"The rollouts of step {step} cannot be read from {self._file(step)}: {error}.",
                "Other steps are not touched by this; delete the file if it is damaged.",
            ) from error
        return [RolloutRecord(**row | {"nearest": tuple(Neighbour(**n) for n in row["nearest"])}) for row in rows]

    def steps_of(self, pair_id: str) -> list[int]:
        """The steps in which a pair stood whose name begins like this, in order."""
        files = [str(self._file(step)) for step in self.steps()]
        if not files:
            return []
        named = pc.starts_with(ds.field("pair_id"), pair_id)
        rows = ds.dataset(files, schema=ROLLOUTS, format="parquet").to_table(columns=["step"], filter=named)
        return sorted(set(rows["step"].to_pylist()))

    def _file(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}.parquet"
