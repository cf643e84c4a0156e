"""Parquet files of a source: streamed a batch at a time from wherever they lie, with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from umer1_core.errors import SourceError
from umer1_core.media import local_path
from umer1_core.sampling.places import open_file, require_place

_AGAIN = "Download the file again, or take this source out of the recipe."


def parquet_rows(
    file: str, required: Sequence[str], optional: Sequence[str] = (), wide: bool = False
) -> Iterator[dict[str, Any]]:
    """The named columns of a Parquet file, a batch in memory at a time. A dot names a struct's field.

    wide: cells hold whole images, so that a batch has few rows. Raises SourceError when a column is missing.
    """
    opened = open_parquet(file)
    present = opened.schema_arrow.names
    require_columns(file, present, required)
    columns = [*required, *(column for column in optional if column in present)]
    try:
        for batch in opened.iter_batches(batch_size=64 if wide else 1_024, columns=columns):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{file} breaks off: {error}.", "Download the file again.") from error


def require_columns(file: str, present: Sequence[str], required: Sequence[str]) -> None:
    for column in required:
        if column.split(".")[0] not in present:
            raise SourceError(f"{file} has no column `{column.split('.')[0]}` (it has {', '.join(present)}).", _AGAIN)


def open_parquet(file: str) -> pq.ParquetFile:
    """Raises SourceError when the file is none."""
    path = local_path(file)
    try:
        return pq.ParquetFile(path if path is not None else open_file(file))
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{file} is not readable Parquet: {error}.", "Download the file again.") from error


def train_files(root: str, name: str) -> list[str]:
    """`root/data/train-*.parquet`, or SourceError."""
    files = require_place(root, name).glob("data/train-*.parquet")
    if not files:
        raise SourceError(
            f"{name}: there is no data/train-*.parquet under {root}.",
            "Download the data set there as the hub stores it, or correct `root`.",
        )
    return files
