"""What identifies an image cell of Parquet without reading the image: its name; its bytes only where names are missing.

A file whose images all have names is streamed without its image bytes, which are nearly all of its size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from blake3 import blake3

from umer1_core.errors import SourceError
from umer1_core.sampling.rows import open_parquet


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
