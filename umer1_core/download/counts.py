"""Rows of fetched files, held against the published counts (umer1_core.upstream).

Parquet says its rows in its footer; lines are counted; of a JSON list, the field that stands once in every record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from umer1_core.errors import SourceError
from umer1_core.upstream import PUBLISHED, Published

# Rows of the released files: exact, from their authors' and others' reports.
_RELEASED = {"released/UME-sft-train": 1_463_360, "released/UME-rl-train": 11_136}
_FIELDS = {"released/UME-rl-train": b'"solution"', "released/RIME-rl": b'"solution"'}
_BLOCK = 1 << 24


@dataclass(frozen=True, slots=True)
class RowCount:
    """Rows found in a unit's files. `published`: what it should have, or None where nobody said."""

    unit: str
    rows: int
    published: Published | None

    @property
    def agrees(self) -> bool:
        return self.published is None or self.published.agrees(self.rows)

    @property
    def expected(self) -> str:
        if self.published is None:
            return ""
        return f"{self.published.rows:,}" if self.published.exact else f"about {self.published.rows:,}"


def count_rows(unit: str, files: Sequence[Path]) -> RowCount | None:
    """The rows of a unit's row files; None where it has none that can be counted. Raises SourceError."""
    counted = [_rows(unit, file) for file in files if _is_rows(file)]
    return RowCount(unit, sum(counted), published_of(unit)) if counted else None


def published_of(unit: str) -> Published | None:
    if unit in _RELEASED:
        return Published(unit, _RELEASED[unit], True, _RELEASED[unit], _RELEASED[unit])
    return PUBLISHED.get(unit)


def _is_rows(file: Path) -> bool:
    return file.suffix in (".parquet", ".jsonl", ".json")


def _rows(unit: str, file: Path) -> int:
    if file.suffix == ".parquet":
        return parquet_row_count(file)
    if file.suffix == ".jsonl":
        return sum(block.count(b"\n") for block in _blocks(file)) + (not _ends_with_newline(file))
    return _count_field(file, _FIELDS.get(unit, b'"pos"'))


def parquet_row_count(file: Path) -> int:
    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{file} is not readable Parquet: {error}.", "Delete it, and download it again.") from error


def _count_field(file: Path, field: bytes) -> int:
    """How often a field's name stands in a file; it may lie across two blocks."""
    count, rest = 0, b""
    for block in _blocks(file):
        joined = rest + block
        count += joined.count(field)
        rest = joined[-(len(field) - 1) :]
    return count


def _ends_with_newline(file: Path) -> bool:
    with open(file, "rb") as lines:
        if not lines.seek(0, 2):
            return True
        lines.seek(-1, 2)
        return lines.read(1) == b"\n"


def _blocks(file: Path) -> Iterator[bytes]:
    with open(file, "rb") as content:
        while block := content.read(_BLOCK):
            yield block
