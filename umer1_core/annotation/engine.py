"""Annotates one shard of sides: bounded concurrency, deadline-bound retries, every answer durable at once.

A row ends as an annotation or as a recorded error, never as nothing. When the whole annotator is gone the run stops
with Fatal instead of turning healthy rows into errors; the same command goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import uvloop

from schemas.recipe import Annotation
from umer1_core.annotation.annotator import annotator_fingerprint, chat_request, request_seed
from umer1_core.annotation.client import ChatClient, Reply
from umer1_core.annotation.journal import Journal, open_journal
from umer1_core.errors import BadInput, Fatal, ServerLost, Transient
from umer1_core.pairs import side_from_record
from umer1_core.store import ShardEntry, Store

# A side that was in flight each time a server died is given up, or it could kill every server in turn, for ever.
_LOST_LIMIT = 3
_BACKOFF_SECONDS, _BACKOFF_LIMIT = 0.5, 30.0


def annotate_shard(
    store: Store,
    shard: str,
    annotation: Annotation,
    endpoints: list[str],
    journal_folder: Path,
    fingerprint: str,
    reused: Mapping[str, dict[str, Any]] | None = None,
    rounds: Mapping[str, int] | None = None,
    patience_s: float = 5.0,
) -> ShardEntry:
    """Write the `annotations` shard for a `sides` shard and return its entry.

    reused: rows of an earlier version by side_key, taken over instead of asking again.
    rounds: how often a side was asked before (by side_key); changes its seed.
    patience_s: how long the endpoints may take to answer at first.
    Raises Fatal when the annotator is unreachable or refuses, StorageError when rows cannot be kept.
    """
    finished = store.entry("annotations", shard, fingerprint)
    if finished is not None:
        return finished
    sides = store.read_shard("sides", shard).to_pylist()
    run = _ShardRun(sides, annotation, endpoints, dict(reused or {}), dict(rounds or {}), patience_s)
    rows, requests = uvloop.run(run.finish(journal_folder / f"{shard}.jsonl"))
    entry = store.write_shard("annotations", shard, rows, fingerprint, **_metrics(rows, requests, len(run.reused)))
    (journal_folder / f"{shard}.jsonl").unlink(missing_ok=True)
    return entry


class _ShardRun:
    """The state of one shard while it is being annotated."""

    def __init__(
        self,
        sides: list[dict[str, Any]],
        annotation: Annotation,
        endpoints: list[str],
        reused: dict[str, dict[str, Any]],
        rounds: dict[str, int],
        patience_s: float,
    ) -> None:
        self.sides, self.annotation, self.endpoints = sides, annotation, endpoints
        self.reused = {s["side_key"]: reused[s["side_key"]] for s in sides if s["side_key"] in reused}
        self.rounds, self.patience_s = rounds, patience_s
        self.annotator = annotator_fingerprint(annotation)
        self.requests = 0
        self.last_success = 0.0

    async def finish(self, journal_path: Path) -> tuple[list[dict[str, Any]], int]:
        async with open_journal(journal_path) as journal:
            known = self.reused | journal.records
            pending = [side for side in self.sides if side["side_key"] not in known]
            if pending:
                await self._annotate(pending, journal)
        answered = self.reused | journal.records
        return [answered[side["side_key"]] for side in self.sides], self.requests

    async def _annotate(self, pending: list[dict[str, Any]], journal: Journal) -> None:
        slots = asyncio.Semaphore(self.annotation.concurrency * len(self.endpoints))
        queue = iter(pending)
        async with ChatClient(self.endpoints, self.annotation) as client:
            await client.check(self.patience_s)

            async def work(share: Iterator[dict[str, Any]]) -> None:
                for side in share:
                    journal.append(await self._annotate_side(side, client, slots))

            # More workers than slots: one that sleeps before a retry holds no slot, and another takes it.
            workers = min(len(pending), 2 * self.annotation.concurrency * len(self.endpoints))
            await _gather_or_first_error(work(queue) for _ in range(workers))

    async def _annotate_side(
        self, side: dict[str, Any], client: ChatClient, slots: asyncio.Semaphore
    ) -> dict[str, Any]:
        round_ = self.rounds.get(side["side_key"], 0)
        seed = request_seed(side["side_key"], self.annotation.completion, round_)
        started, first_failure, attempts, lost = time.monotonic(), 0.0, 0, 0
        while True:
            attempts += 1
            try:
                async with slots:
                    # Encoding reads files; a thread keeps the loop free for the answers of the others.
                    request = await asyncio.to_thread(
                        chat_request, side_from_record(side), self.annotation.model, self.annotation.completion, seed
                    )
                    self.requests += 1
                    reply = await client.complete(request)
                self.last_success = time.monotonic()
                return self._row(side, reply, attempts, round_, time.monotonic() - started)
            except BadInput as error:
                return self._row(side, _failed(), attempts, round_, time.monotonic() - started, str(error))
            except Transient as error:
                first_failure = first_failure or time.monotonic()
                lost += isinstance(error, ServerLost)
                if self._hopeless(error, first_failure, lost):
                    return self._row(side, _failed(), attempts, round_, time.monotonic() - started, str(error))
                await asyncio.sleep(_backoff(attempts))

    def _hopeless(self, error: Transient, first_failure: float, lost: int) -> bool:
        """Whether to give a side up. Raises Fatal instead when no side at all has been answered since."""
        if lost >= _LOST_LIMIT:
            return True
        if time.monotonic() - first_failure <= self.annotation.deadline_s:
            return False
        if self.last_success < first_failure:
            raise _gone(error, self.annotation.deadline_s) from error
        return True

    def _row(
        self, side: dict[str, Any], reply: Reply, attempts: int, round_: int, seconds: float, error: str = ""
    ) -> dict[str, Any]:
        return {
            "side_key": side["side_key"],
            "source": side["source"],
            "completion": reply.text,
            "finish_reason": reply.finish_reason,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "attempts": attempts,
            "round": round_,
            "seconds": round(seconds, 3),
            "annotator": self.annotator,
            "error": error,
        }


async def _gather_or_first_error(tasks: Iterable[Any]) -> None:
    """Like a task group, but the first error is raised itself, so that callers can catch it by its type."""
    try:
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(task)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _failed() -> Reply:
    return Reply("", "error", 0, 0)


def _gone(error: Exception, deadline: float) -> Fatal:
    return Fatal(
        f"No annotator has answered for {deadline:g} s ({error}).",
        "Bring it back and run the same command: finished rows are kept.",
    )


def _backoff(attempt: int) -> float:
    return float(min(_BACKOFF_LIMIT, _BACKOFF_SECONDS * 2 ** (attempt - 1)) * random.uniform(0.7, 1.3))


def _metrics(rows: list[dict[str, Any]], requests: int, reused: int) -> dict[str, Any]:
    return {
        "requests": requests,
        "reused": reused,
        "errors": sum(row["finish_reason"] == "error" for row in rows),
        "prompt_tokens": sum(row["prompt_tokens"] for row in rows),
        "completion_tokens": sum(row["completion_tokens"] for row in rows),
    }
