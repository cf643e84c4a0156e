"""Flat columns of a Parquet file, mapped to the parts of a pair, in the nested form of own data.

Image columns may hold paths, lists of paths, or the images themselves (binary, or `datasets`' `{bytes, path}`). The
latter stay where they are: a row names the cell. Their bytes are not read here where their names tell them apart.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.sources import Columns
from umer1_core.errors import SourceError
from umer1_core.sampling.cells import image_columns, image_key
from umer1_core.sampling.fields import Cell
from umer1_core.sampling.parquet import open_parquet, parquet_rows

Form = Literal["value", "name", "cell"]


def mapped_rows(file: str, columns: Columns) -> Iterator[dict[str, Any]]:
    """Rows as `{"id", "query": {…}, "target": {…}, "negatives": […]}`. Raises SourceError for an unreadable column."""
    opened = open_parquet(file)
    chosen = {role: column for role, column in columns.model_dump().items() if column}
    _require_mapped(file, opened.schema_arrow.names, chosen)
    forms = {role: _form(file, opened, role, column) for role, column in chosen.items()}
    read: list[str] = []
    for role, column in chosen.items():
        form = forms[role]
        read += image_columns(file, column) if form == "cell" else [f"{column}.path" if form == "name" else column]
    wide = any(forms[role] == "cell" and column in read for role, column in chosen.items())
    for number, cells in enumerate(parquet_rows(file, list(dict.fromkeys(read)), wide=wide)):
        yield nested({role: _value(cells, chosen[role], forms[role], file, number) for role in chosen})


def _require_mapped(file: str, present: list[str], chosen: dict[str, str]) -> None:
    for role, column in chosen.items():
        name = column.split(".")[0]
        if name not in present:
            close = difflib.get_close_matches(name, present, n=1)
            raise SourceError(
                f"{file} has no column `{name}` for {role} (it has {', '.join(present)}).",
                f"Did you mean `{close[0]}`?" if close else "Correct `columns`.",
            )


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """The flat columns of a row, as own data has them in JSON. Lists of negatives are taken side by side."""
    record: dict[str, Any] = {"id": flat.get("id")}
    for side in ("query", "target"):
        record[side] = {kind: flat.get(f"{side}_{kind}") for kind in ("text", "image", "video")}
    texts, images = _listed(flat.get("negative_text")), _listed(flat.get("negative_image"))
    record["negatives"] = [{"text": text, "image": image} for text, image in zip_longest(texts, images)]
    return record


def _form(file: str, opened: pq.ParquetFile, role: str, column: str) -> Form:
    """How a column holds what it holds. Raises SourceError where it cannot be read as that part of a pair."""
    kind = _type(file, opened.schema_arrow, column)
    if not role.endswith(("image", "video")) or _is_text(kind) or (_is_list(kind) and _is_text(kind.value_type)):
        return "value"
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0 and _all_null(opened, f"{column}.bytes"):
        return "name"
    if role.endswith("video") or "." in column or not (_is_binary(kind) or _is_binary_struct(kind)):
        raise SourceError(
            f"{file}: the column `{column}` is {kind}; {role} must be paths"
            f"{'' if role.endswith('video') else ', or one image a row as bytes'}.",
            f"Map another column to {role}.",
        )
    return "cell"


def _value(cells: dict[str, Any], column: str, form: Form, file: str, number: int) -> Any:
    value = _at(cells, column)
    if form == "value":
        return value
    if form == "name":
        return value.get("path") if isinstance(value, dict) else None
    if not value or (isinstance(value, dict) and not any(value.values())):
        return None
    return Cell(file, f"{column}#{number}", image_key(value))


def _at(cells: dict[str, Any], column: str) -> Any:
    value: Any = cells
    for name in column.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _type(file: str, schema: pa.Schema, column: str) -> pa.DataType:
    name, *fields = column.split(".")
    kind = schema.field(name).type
    for field in fields:
        if not pa.types.is_struct(kind) or kind.get_field_index(field) < 0:
            raise SourceError(f"{file}: the column `{name}` has no field `{field}`.", "Correct `columns`.")
        kind = kind.field(field).type
    return kind


def _all_null(opened: pq.ParquetFile, leaf: str) -> bool:
    """By the file's statistics; False where it has none."""
    metadata = opened.metadata
    for group in (metadata.row_group(number) for number in range(metadata.num_row_groups)):
        chunks = [chunk for chunk in map(group.column, range(group.num_columns)) if chunk.path_in_schema == leaf]
        for chunk in chunks:
            statistics = chunk.statistics
            if statistics is None or not statistics.has_null_count or statistics.null_count < group.num_rows:
                return False
    return True


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_binary_struct(kind: pa.DataType) -> bool:
    index = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
    return index >= 0 and _is_binary(kind.field(index).type)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None or value == "" else [value]
