"""An append-only journal of finished annotations: what is in it survives kill -9.

Records are JSON lines, written and fsynced in groups. A torn last line, left by a crash, is cut off at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson

from umer1_core.errors import StorageError

_GROUP_SECONDS = 0.25


class Journal:
    """One shard's journal. Use `open_journal`, which commits what is left when the shard ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.records = _recover(path)
        self._file = open(path, "ab")
        self._pending: list[bytes] = []
        self._failure: OSError | None = None

    def append(self, record: dict[str, Any]) -> None:
        """Add a finished row; durable after the next group commit. Raises StorageError once a commit has failed."""
        if self._failure is not None:
            raise StorageError(
                f"Cannot write the journal {self.path}: {self._failure.strerror}.",
                "Free some space, then run the same command: finished rows are kept.",
            ) from self._failure
        self.records[record["side_key"]] = record
        self._pending.append(orjson.dumps(record) + b"\n")

    def commit(self) -> None:
        """Write and fsync what was appended since the last commit."""
        group, self._pending = self._pending, []
        if not group:
            return
        try:
            self._file.write(b"".join(group))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._failure = error

    async def commit_in_groups(self) -> None:
        """Runs beside the requests; the fsync happens in a thread, so it never delays the event loop."""
        while True:
            await asyncio.sleep(_GROUP_SECONDS)
            await asyncio.to_thread(self.commit)

    def close(self) -> None:
        self.commit()
        with contextlib.suppress(OSError):  # the failure is already recorded and raised by `append`
            self._file.close()


@contextlib.asynccontextmanager
async def open_journal(path: Path) -> AsyncIterator[Journal]:
    journal = await asyncio.to_thread(Journal, path)
    committer = asyncio.create_task(journal.commit_in_groups())
    try:
        yield journal
    finally:
        committer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await committer
        journal.close()


def count_records(path: Path) -> int:
    """Finished rows in a journal that another process may be writing."""
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def _recover(path: Path) -> dict[str, dict[str, Any]]:
    records: dict[str, dict[str, Any]] = {}
    if not path.exists():
        return records
    good = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                break
            if not line.endswith(b"\n"):
                break
            records[record["side_key"]] = record
            good += len(line)
    if good < path.stat().st_size:
        os.truncate(path, good)
    return records
