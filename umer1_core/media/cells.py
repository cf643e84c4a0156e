"""Pictures in cells of Parquet files: bytes, or structs with a field `bytes` as `datasets` writes images."""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from umer1_core.errors import BadInput
from umer1_core.media.files import open_file, short
from umer1_core.pairs import Media


def read_cell(media: Media) -> bytes:
    """The bytes of `column#row`. Raises BadInput when there are none."""
    column, _, row = media.member.rpartition("#")
    try:
        _, starts, _ = _parquet(media.uri)
        group = int(np.searchsorted(starts, int(row), side="right")) - 1
        cell = _row_group(media.uri, group, column)[int(row) - starts[group]]
    except (IndexError, KeyError, ValueError) as error:
        if isinstance(error, pa.ArrowInvalid):
            raise BadInput("archive_damaged", f"{media.uri} cannot be read as Parquet: {short(error)}") from error
        raise BadInput("media_missing", f"{media.where} is not there: {short(error)}") from error
    except OSError as error:
        raise BadInput("archive_damaged", f"{media.uri} breaks off: {short(error)}") from error
    if not cell:
        raise BadInput("media_missing", f"{media.where} is empty")
    return cell


@lru_cache(maxsize=8)
def _parquet(uri: str) -> tuple[pq.ParquetFile, list[int], threading.Lock]:
    file = pq.ParquetFile(open_file(uri), memory_map=False)
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    return file, [int(n) for n in np.cumsum([0, *groups])], threading.Lock()


@lru_cache(maxsize=4)
def _row_group(uri: str, group: int, column: str) -> list[bytes | None]:
    file, _, lock = _parquet(uri)
    with lock:
        cells = file.read_row_group(group, columns=[column]).column(column).to_pylist()
    return [cell["bytes"] if isinstance(cell, dict) else cell for cell in cells]
