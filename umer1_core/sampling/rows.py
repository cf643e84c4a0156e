"""What a layout yields before any media is touched: rows with their key and texts, or refused rows with a reason.

A layout is one readable unit of an upstream data set. It streams its rows in a fixed order, tells where a drawn row's
media lie, and turns a reference of its own (a path, a video id, a cell) into `Media`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.recipe import Source
from umer1_core.errors import BadInput, SourceError
from umer1_core.pairs import Media, Modality, pair_id


@dataclass(frozen=True)
class SourceSpec:
    """One readable unit of a recipe's source: `mmeb/OK-VQA`, `llava_hound/qa`, `vidore/colpali_train_set`, `visrag`.

    name: what its rows are called, except that a VisRAG row is called by its own column, as `visrag/ChartQA`.
    unit: the subset or builder inside the configuration; empty where there is only one.
    """

    name: str
    modality: Modality
    config: Source
    limit: int
    unit: str = ""


@dataclass(frozen=True, slots=True)
class RawSide:
    """Text as it will be shown, the layout's reference to its image or clip, and the field to name in a message."""

    text: str
    reference: str
    field: str

    @property
    def empty(self) -> bool:
        return not self.text and not self.reference


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as read. `key` identifies its content; `file` and `row` say where it stands."""

    source: str
    key: str
    file: str
    row: int
    query: RawSide
    target: RawSide
    negatives: tuple[RawSide, ...] = ()

    @property
    def pair_id(self) -> str:
        return pair_id(self.source, self.key)

    def refuse(self, reason: str, detail: str) -> Refused:
        return Refused(self.source, f"{Path(self.file).name}#{self.row}", reason, detail)


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that never becomes a pair (a row of schemas.tables.REJECTIONS)."""

    source: str
    row: str
    reason: str
    detail: str


class Layout(Protocol):
    """One unit of an upstream data set."""

    def rows(self) -> Iterator[RawRow | Refused]:
        """All rows, in an order that does not change."""
        ...

    def place(self, reference: str) -> tuple[str, int]:
        """The container a reference lies in and its position there, so that containers are read in stored order."""
        ...

    def locate(self, reference: str) -> Media:
        """The media a reference means, not yet opened. Raises BadInput."""
        ...


def checked(row: RawRow) -> RawRow | Refused:
    """The row, refused when its query or target is empty."""
    for side, reason in ((row.query, "empty_query"), (row.target, "empty_target")):
        if side.empty:
            return row.refuse(reason, f"{side.field} of row {row.row} of {row.file} is empty")
    return row


# -- Parquet ---------------------------------------------------------------------------------------------------------


def parquet_rows(file: Path, required: list[str], optional: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """The named columns of a Parquet file, a batch in memory at a time. A dot names a struct's field."""
    opened = open_parquet(file)
    present = opened.schema_arrow.names
    for column in required:
        if column.split(".")[0] not in present:
            raise SourceError(
                f"{file} has no column `{column.split('.')[0]}` (it has {', '.join(present)}).",
                "Download the file again, or take this source out of the recipe.",
            )
    columns = [*required, *(column for column in optional if column in present)]
    size = 64 if "image" in columns else 1_024
    try:
        for batch in opened.iter_batches(batch_size=size, columns=columns):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{file} breaks off: {error}.", "Download the file again.") from error


def open_parquet(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{file} is not readable Parquet: {error}.", "Download the file again.") from error


def parquet_files(root: str, name: str) -> list[Path]:
    """`root/data/train-*.parquet`, or SourceError."""
    files = sorted(require_folder(root, name).glob("data/train-*.parquet"))
    if not files:
        raise SourceError(
            f"{name}: there is no data/train-*.parquet under {root}.",
            "Download the data set there as the hub stores it, or correct `root`.",
        )
    return files


def require_folder(root: str, name: str) -> Path:
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise SourceError(f"{name}: there is no folder {folder}.", "Correct `root` of this source in the recipe.")
    return folder


def text_of(value: Any, field: str, row: int, file: str) -> str:
    """A cell as text, `None` as nothing. Raises BadInput when it is something else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadInput("bad_field", f"{field} of row {row} of {file} is {type(value).__name__}, not text")
    return value
