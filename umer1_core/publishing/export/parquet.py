"""`cold_start` and `rl` for `datasets`: Parquet files named as the hub names them, pictures as `datasets.Image`.

Guarantees: one file a shard, or several where embedded media would make it larger than about a gigabyte; row groups of
about 100 MB, so that a reader holds no more. A row whose picture cannot be read is left out and recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.tables import COLD_START, PROVENANCE, RL
from umer1_core.errors import BadInput
from umer1_core.publishing.export import Wanted
from umer1_core.publishing.export.pictures import cells, embedded_bytes, side_kind
from umer1_core.store import ShardEntry, Store

FORM = "datasets/1"
TABLES = {"cold_start": COLD_START, "rl": RL}
_FILE_BYTES, _GROUP_BYTES, _GROUP_ROWS = 1_000_000_000, 100_000_000, 5_000
_TEXT_BYTES = 8_000  # of a row's texts, about

_IMAGE = {"_type": "Image"}
_CELL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TYPES = {"float": "float32", "double": "float64"}  # where `datasets` and Arrow differ


@dataclass(frozen=True, slots=True)
class Piece:
    """A file to write: some rows of a shard. `bytes`: about its size."""

    name: str
    entry: ShardEntry
    start: int
    stop: int
    bytes: int

    def made_from(self, wanted: Wanted) -> str:
        return f"{FORM} {wanted} {self.entry.checksum} {self.start}-{self.stop}"


def plan(store: Store, table: str, wanted: Wanted) -> list[Piece]:
    """The files of a table, in order: `cold_start/train-00000-of-00012.parquet`, …"""
    cuts = [(entry, *cut) for entry in store.entries(table) if entry.rows for cut in _cuts(store, entry, wanted)]
    return [Piece(f"{table}/train-{number:05d}-of-{len(cuts):05d}.parquet", *cut) for number, cut in enumerate(cuts)]


def write_piece(store: Store, piece: Piece, wanted: Wanted, target: Path) -> list[dict[str, str]]:
    """Write one file; returns the rows that were left out."""
    left_out: list[dict[str, str]] = []
    content = store.read_shard(piece.entry.table, piece.entry.shard).slice(piece.start, piece.stop - piece.start)
    schema = arrow_schema(TABLES[piece.entry.table])
    with pq.ParquetWriter(target, schema, compression="zstd", write_page_index=True) as writer:
        for group in _groups(content, wanted, left_out):
            writer.write_table(pa.Table.from_pylist(group, schema=schema), row_group_size=len(group))
    return left_out


def arrow_schema(table: pa.Schema) -> pa.Schema:
    """The columns of a table with pictures instead of references, and what `datasets` needs to decode them."""
    columns = dict(_column(field) for field in table for field in _fields(field))
    features = {name: feature for name, (_, feature) in columns.items()}
    metadata = {"huggingface": orjson.dumps({"info": {"features": features}})}
    return pa.schema([(name, kind) for name, (kind, _) in columns.items()], metadata=metadata)


def _fields(field: pa.Field) -> list[pa.Field]:
    if not field.name.endswith("_media"):
        return [field]
    role = field.name.removesuffix("_media")
    return [pa.field(f"{role}_kind", pa.string()), pa.field(f"{role}_images", pa.list_(_CELL))]


def _column(field: pa.Field) -> tuple[str, tuple[pa.DataType, Any]]:
    if field.name.endswith("_images"):
        return field.name, (field.type, _list_of(_IMAGE))
    if field.name == "negatives":
        side = pa.struct([("text", pa.string()), ("images", pa.list_(_CELL))])
        return field.name, (pa.list_(side), _list_of({"text": _value("string"), "images": _list_of(_IMAGE)}))
    if field.name == "flags":
        return field.name, (field.type, _list_of(_value("string")))
    if field.name == "provenance":
        return field.name, (field.type, {part.name: _value(str(part.type)) for part in PROVENANCE})
    return field.name, (field.type, _value(str(field.type)))


def _list_of(feature: Any) -> dict[str, Any]:
    return {"feature": feature, "_type": "List"}


def _value(kind: str) -> dict[str, str]:
    return {"dtype": _TYPES.get(kind, kind), "_type": "Value"}


def _cuts(store: Store, entry: ShardEntry, wanted: Wanted) -> Iterator[tuple[int, int, int]]:
    """Start, stop and about the bytes of the files that a shard becomes."""
    media = store.read_shard(entry.table, entry.shard, ["query_media", "target_media", "negatives"])
    start = size = 0
    for number, row in enumerate(media.to_pylist()):
        more = _row_bytes(row, wanted)
        if size and size + more > _FILE_BYTES:
            yield start, number, size
            start, size = number, 0
        size += more
    yield start, entry.rows, size


def _groups(content: pa.Table, wanted: Wanted, left_out: list[dict[str, str]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for part in content.to_batches(max_chunksize=256):
        for row in part.to_pylist():
            try:
                group.append(_row(row, wanted))
            except BadInput as error:
                left_out.append({"pair_id": row["pair_id"], "reason": error.reason, "detail": error.detail})
                continue
            size += _row_bytes(row, wanted)
            if size >= _GROUP_BYTES or len(group) == _GROUP_ROWS:
                yield group
                group, size = [], 0
    if group:
        yield group


def _row(row: Mapping[str, Any], wanted: Wanted) -> dict[str, Any]:
    made = dict(row)
    for role in ("query", "target"):
        media = made.pop(f"{role}_media")
        made[f"{role}_kind"], made[f"{role}_images"] = side_kind(media), cells(media, wanted)
    made["negatives"] = [
        {"text": side["text"], "images": cells(side["media"], wanted)} for side in row["negatives"] or ()
    ]
    return made


def _row_bytes(row: Mapping[str, Any], wanted: Wanted) -> int:
    media = [row["query_media"], row["target_media"], *(side["media"] for side in row["negatives"] or ())]
    return _TEXT_BYTES + sum(embedded_bytes(each, wanted) for each in media)
