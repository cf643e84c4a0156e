"""An append-only journal of what was answered: what is in it survives kill -9, and memory holds only its keys.

A record is a JSON line with the `attempt` (a row of `attempts`) and, where that settled the side, its `row` (of
`annotations`). Lines are written and fsynced in groups; a torn last line, left by a crash, is cut off at the next
start. One process at a time: a second waits for the file's lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.json

from schemas.tables import ANNOTATIONS, ATTEMPTS
from umer1_core.errors import StorageError

Key = tuple[str, int]  # side_key, sample
_WAIT_SECONDS = 0.5
# A block must hold the longest line; only newlines between records stand unescaped.
_READ = pa.json.ReadOptions(block_size=16 << 20)
_PARSE = pa.json.ParseOptions(
    explicit_schema=pa.schema([("attempt", pa.struct(list(ATTEMPTS))), ("row", pa.struct(list(ANNOTATIONS)))])
)


class Journal:
    """One shard's journal. Use `open_journal`, which commits what is left when the shard ends, however it ends.

    settled: the keys that need no further request. asked: of the others, (attempts, rungs of the ladder) so far.
    """

    def __init__(self, path: Path, file: BinaryIO, annotator: str) -> None:
        self.path, self._file = path, file
        self.settled: set[Key] = set()
        self.asked: dict[Key, tuple[int, int]] = {}
        self._pending: list[bytes] = []
        self._failure: OSError | None = None
        self._committing = threading.Lock()
        os.ftruncate(file.fileno(), self._recover(annotator))

    def append(self, attempt: dict[str, Any], row: dict[str, Any] | None) -> None:
        """Add a record; durable after the next group commit. Raises StorageError once a commit has failed."""
        if self._failure is not None:
            raise self._storage_error(self._failure)
        if row is not None:
            self.settled.add((row["side_key"], row["sample"]))
        self._pending.append(orjson.dumps({"attempt": attempt, "row": row}, option=orjson.OPT_APPEND_NEWLINE))

    def commit(self) -> None:
        """Write and fsync what was appended since the last commit. Raises StorageError.

        Returns only when a commit that another thread had begun is through as well.
        """
        with self._committing:
            group, self._pending = self._pending, []
            if not group:
                return
            try:
                self._file.write(b"".join(group))
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                self._failure = error
                raise self._storage_error(error) from error

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Everything recorded, as (attempts, annotations) in the order of the answers.

        Arrow parses the lines without holding Python's lock, so the answers of other shards are not delayed.
        """
        if os.fstat(self._file.fileno()).st_size == 0:
            return ATTEMPTS.empty_table(), ANNOTATIONS.empty_table()
        self._file.seek(0)
        records = pa.json.read_json(self._file, _READ, _PARSE)
        return _rows(records["attempt"], ATTEMPTS), _rows(records["row"], ANNOTATIONS)

    def _recover(self, annotator: str) -> int:
        """Read what is there; the length of its good part. Answers of another annotator count for nothing."""
        good = 0
        self._file.seek(0)
        for line in self._file:
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                return good
            if not line.endswith(b"\n") or (record["row"] or {}).get("annotator", annotator) != annotator:
                return good
            self._count(record["attempt"], record["row"])
            good += len(line)
        return good

    def _count(self, attempt: dict[str, Any], row: dict[str, Any] | None) -> None:
        key = (attempt["side_key"], attempt["sample"])
        if row is not None:
            self.settled.add(key)
            self.asked.pop(key, None)
            return
        attempts, rungs = self.asked.get(key, (0, 0))
        self.asked[key] = (attempts + 1, rungs + (attempt["outcome"] != "transient"))

    def _storage_error(self, error: OSError) -> StorageError:
        return StorageError(
            f"Cannot write the journal {self.path}: {error.strerror}.",
            "Free some space, then run the same command: finished rows are kept.",
        )


@contextlib.contextmanager
def open_journal(path: Path, annotator: str, on_wait: Callable[[str], None]) -> Iterator[Journal]:
    """The journal at `path`, once no other process holds it. Raises StorageError when it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:  # the handle: its name may be gone once the lock is had
        _lock(file, path, on_wait)
        journal = Journal(path, file, annotator)
        try:
            yield journal
        finally:
            with contextlib.suppress(StorageError):  # raised by `commit` where it is not the way out of another error
                journal.commit()


def count_records(path: Path) -> int:
    """Settled sides, their first samples, in a journal that another process may be writing."""
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        # Quotes inside a completion are escaped, so these stand only where the record has them.
        return sum(b'"row":{' in line and b'"sample":0,' in line for line in file)


def _rows(structs: pa.ChunkedArray, schema: pa.Schema) -> pa.Table:
    present = structs.drop_null()
    batches = [pa.RecordBatch.from_struct_array(chunk) for chunk in present.chunks]
    return pa.Table.from_batches(batches, pa.schema(list(schema))).replace_schema_metadata(schema.metadata)


def _lock(file: BinaryIO, path: Path, on_wait: Callable[[str], None]) -> None:
    told = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                on_wait(f"Another process annotates the shard of {path.name}; waiting for it.")
            told = True
            time.sleep(_WAIT_SECONDS)
