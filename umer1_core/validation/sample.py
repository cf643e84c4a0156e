"""Rows of cold_start that are looked at whole: drawn by the pair's own hash, whatever the shards and their order.

Guarantees: at most the rows asked for, the same ones for the same pairs; collected while the shards are read for their
metrics, so that no shard is read twice. Of some of them the files behind their media are looked for.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from threading import Lock
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from umer1_core.media import is_video_file, local_path
from umer1_core.validation.shard import Shard

Row = dict[str, Any]

_TEXTS = [
    "pair_id",
    "source",
    "modality",
    "query_key",
    "target_key",
    "query_prompt",
    "query_response",
    "target_prompt",
    "target_response",
]
_MEDIA = ["query_media", "target_media"]
_DIGITS = 8  # of the pair_id's end: its beginning may be what shards are cut by
_MARGIN = 1.2  # drawn, for how many rows fall under a bound is chance
_MEDIA_ROWS = 1_000  # rows whose media are looked for
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


class Sampler:
    """Takes rows of the shards it is shown, from any thread. `total`: rows of the whole table."""

    def __init__(self, rows: int, total: int) -> None:
        self.rows = rows
        everything = total <= _MARGIN * rows
        share = 1.0 if everything else _MARGIN * rows / total
        self._bound = None if everything else f"{int(share * 16**_DIGITS):0{_DIGITS}x}"
        self._taken: list[Row] = []
        self._lock = Lock()

    def look(self, shard: Shard) -> None:
        columns = [*_TEXTS, *_MEDIA]
        chosen = self._chosen(shard["pair_id"])
        if not len(chosen):
            return
        rows = pa.table({name: shard[name].take(chosen) for name in columns}).to_pylist()
        with self._lock:
            self._taken.extend(rows)

    def sample(self) -> list[Row]:
        """The rows, by their hash, with `media_missing`: files that are not there; None where nobody looked."""
        drawn = heapq.nsmallest(self.rows, self._taken, key=_priority)
        exists = _Existence()
        for number, row in enumerate(drawn):
            media = [item for name in _MEDIA for item in row.pop(name) or []]
            row["media_missing"] = sum(map(exists.lacks, media)) if number < _MEDIA_ROWS else None
        return drawn

    def _chosen(self, identifiers: pa.ChunkedArray) -> pa.Array:
        if self._bound is None:
            return pa.array(range(len(identifiers)), pa.int64())
        ends = pc.utf8_slice_codeunits(identifiers, -_DIGITS)
        return pc.indices_nonzero(pc.fill_null(pc.less(ends, self._bound), False))


def _priority(row: Row) -> tuple[str, str]:
    identifier = str(row["pair_id"] or "")
    return identifier[-_DIGITS:], identifier


class _Existence:
    """Whether the files behind media are there; each is asked for once."""

    def __init__(self) -> None:
        self._known: dict[str, bool] = {}

    def lacks(self, media: Row) -> bool:
        return any(not self._there(uri) for uri in _files(media))

    def _there(self, uri: str) -> bool:
        if uri not in self._known:
            path = local_path(uri)
            if path is not None:
                self._known[uri] = os.path.exists(path)
            else:
                filesystem, name = fsspec.core.url_to_fs(uri)
                self._known[uri] = bool(filesystem.exists(name))
        return self._known[uri]


def _files(media: Row) -> Iterator[str]:
    """The file or archive; of a folder of frames its first and last."""
    frames = media["frames"] or []
    if frames and not is_video_file(media["uri"]) and not media["uri"].endswith(_ARCHIVES):
        yield from (f"{media['uri']}/{name}" for name in dict.fromkeys((frames[0], frames[-1])))
    else:
        yield media["uri"]
