"""Sources whose images are cells of Parquet: how their rows are streamed and how a cell is named.

A cell is identified by its image's name, and by its bytes only where names are missing: a file whose images all have
names is streamed without its image bytes, which are nearly all of its size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from blake3 import blake3

from umer1_core.errors import SourceError
from umer1_core.pairs import Media
from umer1_core.sampling.rows import RawRow, Refused, open_parquet, parquet_files, parquet_rows

RowReader = Callable[[dict[str, Any], Path, int], RawRow | Refused]


@dataclass(frozen=True)
class CellLayout:
    """`root/data/train-*.parquet` with the column `image`; `read` makes a row of its cells, its file and its number."""

    root: str
    name: str
    columns: tuple[str, ...]
    read: RowReader
    optional: tuple[str, ...] = ()

    def rows(self) -> Iterator[RawRow | Refused]:
        for file in parquet_files(self.root, self.name):
            columns = [*self.columns, *image_columns(file)]
            for number, cells in enumerate(parquet_rows(file, columns, self.optional)):
                yield self.read(cells, file, number)

    def place(self, reference: str) -> tuple[str, int]:
        uri, _, member = reference.rpartition("!")
        return uri, int(member.rpartition("#")[2])

    def locate(self, reference: str) -> Media:
        uri, _, member = reference.rpartition("!")
        return Media("image", uri, member=member)


def cell_reference(file: Path, column: str, row: int) -> str:
    """What `CellLayout` places and locates."""
    return f"{file}!{column}#{row}"


def image_columns(file: Path) -> list[str]:
    """The columns to read for `image_key`: `image.path`, or the whole cell where some images have no name."""
    opened = open_parquet(file)
    schema = opened.schema_arrow
    if "image" not in schema.names:
        raise SourceError(
            f"{file} has no column `image` (it has {', '.join(schema.names)}).",
            "Download the file again, or take this source out of the recipe.",
        )
    kind = schema.field("image").type
    if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
        return ["image"]
    names = opened.read(columns=["image.path"]).column("image").combine_chunks().field("path")
    return ["image"] if names.null_count or "" in set(names.unique().to_pylist()) else ["image.path"]


def image_key(cells: dict[str, Any]) -> str:
    cell = cells["image"]
    if isinstance(cell, dict):
        return cell.get("path") or _digest(cell.get("bytes"))
    return _digest(cell)


def _digest(data: bytes | None) -> str:
    return blake3(data or b"").hexdigest()[:32]
