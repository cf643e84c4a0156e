"""What the UI shows while a run is at work: a progress bar, the shards and the servers, read from the run's files.

The files are polled every few seconds: rows are far too many to be Prefect events.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from tasks.common import kept_current
from umer1_core.console import live_line
from umer1_core.status import LiveStatus, RunStatus, read_status
from umer1_core.store import Store

_SHARDS_SHOWN = 500


@contextmanager
def progress_board(root: str) -> Iterator[None]:
    """Keeps the artifacts of a data run current while the block runs, and leaves them at their last state."""
    with kept_current(_Board(Store(root)).update):
        yield


class _Board:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.progress: UUID | None = None
        self.tables: dict[str, UUID] = {}

    def update(self, last: bool) -> None:
        status = read_status(self.store)
        stage = next(s for s in status.stages if s.stage == "annotation")
        percent = 100.0 * stage.done / stage.total if stage.total else 0.0
        description = f"{stage.done:,}/{stage.total:,} sides annotated"
        if status.live:
            description += f"; {live_line(status.live)}"
        if self.progress is None:
            progress = create_progress_artifact(percent, key="annotation-progress", description=description)
            # Called without an event loop these return the ids themselves, not coroutines.
            self.progress = cast(UUID, progress)
        else:
            update_progress_artifact(self.progress, percent, description=description)
        self._show("shards", _rows(status), description)
        if status.live:
            self._show("annotators", _servers(status.live), description)
        elif "annotators" in self.tables:
            self._update("annotators", ArtifactUpdate(description=description))

    def _show(self, key: str, rows: list[dict[str, str]], description: str) -> None:
        if key not in self.tables:
            self.tables[key] = cast(UUID, create_table_artifact(rows, key=key, description=description))
        else:
            self._update(key, ArtifactUpdate(data=json.dumps(rows), description=description))

    def _update(self, key: str, change: ArtifactUpdate) -> None:
        with get_client(sync_client=True) as client:
            client.update_artifact(self.tables[key], change)


def _rows(status: RunStatus) -> list[dict[str, str]]:
    return [
        {
            "shard": shard.shard,
            "state": shard.state,
            "annotated": f"{shard.annotated:,}/{shard.rows:,}",
            "kept": "" if shard.kept is None else f"{shard.kept:,} ({shard.kept / max(1, shard.rows):.0%})",
        }
        for shard in status.shards[:_SHARDS_SHOWN]
    ]


def _servers(live: LiveStatus) -> list[dict[str, str]]:
    return [
        {
            "server": replica["replica"],
            "state": replica["state"],
            "in flight": f"{replica['in_flight']} of {replica['limit']}",
            "waiting": "" if replica["waiting"] is None else str(replica["waiting"]),
            "KV cache": "" if replica["kv_usage"] is None else f"{replica['kv_usage']:.0%}",
            "latency": f"{replica['latency_s']:.1f} s",
            "tokens/s": f"{replica['tokens_per_s']:,.0f}",
            "last error": replica["last_error"],
        }
        for replica in live.replicas
    ]
