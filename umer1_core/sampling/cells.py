"""Sources whose images are cells of Parquet: how their rows are streamed and how a cell is named.

A cell is identified by its image's name, and by its bytes only where names are missing: a file whose images all have
names is streamed without its image bytes, which are nearly all of its size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from blake3 import blake3

from umer1_core.pairs import Media
from umer1_core.sampling.parquet import open_parquet, parquet_rows, require_columns, train_files
from umer1_core.sampling.rows import RawRow, Refused

RowReader = Callable[[dict[str, Any], str, int], RawRow | Refused]


@dataclass(frozen=True)
class CellLayout:
    """`root/data/train-*.parquet` with the column `image`; `read` makes a row of its cells, its file and its number."""

    root: str
    name: str
    columns: tuple[str, ...]
    read: RowReader
    optional: tuple[str, ...] = ()

    def rows(self) -> Iterator[RawRow | Refused]:
        for file in self.files():
            columns = [*self.columns, *image_columns(file, "image")]
            wide = "image" in columns
            for number, cells in enumerate(parquet_rows(file, columns, self.optional, wide)):
                yield self.read(cells, file, number)

    def files(self) -> Sequence[str]:
        return train_files(self.root, self.name)

    def place(self, reference: str) -> tuple[str, int]:
        uri, _, member = reference.rpartition("!")
        return uri, int(member.rpartition("#")[2])

    def locate(self, reference: str) -> tuple[Media, ...]:
        uri, _, member = reference.rpartition("!")
        return (cell_media(uri, member),)


def cell_reference(file: str, column: str, row: int) -> str:
    """What `CellLayout` places and locates."""
    return f"{file}!{column}#{row}"


def cell_media(file: str, member: str) -> Media:
    return Media("image", file, member=member)


def image_columns(file: str, column: str) -> list[str]:
    """The columns to read for `image_key`: `image.path`, or the whole cell where some images have no name."""
    opened = open_parquet(file)
    require_columns(file, opened.schema_arrow.names, [column])
    kind = opened.schema_arrow.field(column).type
    if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
        return [column]
    for group in range(opened.num_row_groups):
        names = opened.read_row_group(group, columns=[f"{column}.path"]).column(column).combine_chunks().field("path")
        if names.null_count or "" in set(names.unique().to_pylist()):
            return [column]
    return [f"{column}.path"]


def image_key(cell: Any) -> str:
    """What tells an image apart: its name, or the hash of its bytes; of no image the hash of nothing."""
    if isinstance(cell, dict):
        return cell.get("path") or _digest(cell.get("bytes"))
    return _digest(cell)


def _digest(data: bytes | None) -> str:
    return blake3(data or b"").hexdigest()[:32]
