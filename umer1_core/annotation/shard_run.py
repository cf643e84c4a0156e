"""One shard in the engine: every side ends as an annotation or as a dead letter with its reason, never as nothing.

A side's life: sent; when the server fails, sent again elsewhere until its deadline; when the completion cannot be used,
asked for again with another seed and temperature as often as the ladder says. Every answer goes to the journal.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any

from schemas.recipe import Annotation
from umer1_core.annotation import ladder
from umer1_core.annotation.annotator import chat_body, request_seed
from umer1_core.annotation.client import Reply
from umer1_core.annotation.fleet import Fleet
from umer1_core.annotation.journal import Journal, Key
from umer1_core.annotation.ledger import Ledger
from umer1_core.annotation.order import media_key, send_order
from umer1_core.annotation.replica import Lane, Replica, blames_row
from umer1_core.errors import BadInput, BadOutput, ServerFailed, ServerLost, StorageError, Transient, Umer1Error
from umer1_core.pairs import side_from_record

Wanted = tuple[dict[str, Any], int]  # a side and the number of its sample

_GROUP_SECONDS = 0.25
_BACKOFF_SECONDS, _BACKOFF_LIMIT = 0.5, 30.0
# A row that several servers fail on, or one does three times while it serves others, is what they fail on.
_BLAMED_SERVERS, _BLAMED_TIMES = 2, 3
_REASONS: dict[type[Transient], str] = {
    ServerFailed: "server_error",
    ServerLost: "server_lost",
    BadOutput: "bad_output",
}


class ShardRun:
    """The open sides of a shard, in the loop of the engine. `annotator`: the fingerprint under which answers count."""

    def __init__(
        self,
        annotation: Annotation,
        annotator: str,
        fleet: Fleet,
        journal: Journal,
        ledger: Ledger,
        rounds: dict[str, int],
    ) -> None:
        self.annotation, self.annotator, self.fleet, self.journal = annotation, annotator, fleet, journal
        self.ledger, self.rounds = ledger, rounds
        self.requests = self.open = 0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def finish(self, todo: Iterable[Wanted]) -> int:
        """Ask for every (side, sample); the number of requests sent. Raises what ended the fleet or the journal."""
        works = [SideWork(self, side, sample) for side, sample in todo]
        self.open = len(works)
        committer = asyncio.create_task(self._commit_in_groups())
        try:
            if works and self.fleet.roster.failed is None:
                for work in works:
                    self.fleet.submit(work)
                self.fleet.dispatch()
                await self._done
            elif self.fleet.roster.failed:
                raise self.fleet.roster.failed
        finally:
            self._close()
            committer.cancel()
            await asyncio.gather(committer, return_exceptions=True)
        await asyncio.to_thread(self.journal.commit)
        return self.requests

    @property
    def closed(self) -> bool:
        return self._done.done()

    def fail(self, error: BaseException) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    def record(self, attempt: dict[str, Any], row: dict[str, Any] | None) -> None:
        try:
            self.journal.append(attempt, row)
        except StorageError as error:
            self.fail(error)
            return
        self.ledger.add(attempt, row is not None)
        if row is not None:
            self.open -= 1
            if self.open == 0:
                self._close()

    def _close(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    async def _commit_in_groups(self) -> None:
        """The fsync happens in a thread, so it never delays the answers."""
        while True:
            await asyncio.sleep(_GROUP_SECONDS)
            try:
                await asyncio.to_thread(self.journal.commit)
            except StorageError as error:
                self.fail(error)
                return


class SideWork:
    """A completion wanted of a side (umer1_core.annotation.fleet.Work)."""

    def __init__(self, run: ShardRun, side: dict[str, Any], sample: int) -> None:
        self.run, self.side = run, side
        self.key: Key = (side["side_key"], sample)
        self.lane: Lane = "clip" if any(media["kind"] == "video" for media in side["media"]) else "other"
        self.affinity = media_key(side) if run.annotation.affinity else ""
        self.attempts, self.rungs = run.journal.asked.get(self.key, (0, 0))
        self.avoid: set[str] = set()
        self.blamed: set[str] = set()
        self.times = 0
        self.first_failure = 0.0
        self.inline = False  # its files were refused by reference

    @property
    def wanted(self) -> bool:
        return not self.run.closed

    @property
    def name(self) -> str:
        return f"{self.side['side_key']} ({self.side['source']})"

    async def body(self, replica: Replica) -> bytes:
        if self.side["media"]:
            # Encoding reads files; a thread keeps the loop free for the answers of the others.
            by_reference = replica.by_reference and not self.inline
            body = await asyncio.get_running_loop().run_in_executor(None, self._body, by_reference)
        else:
            body = self._body(False)
        self.run.requests += 1
        return body

    def _body(self, by_reference: bool) -> bytes:
        return chat_body(
            side_from_record(self.side),
            self.run.annotation,
            seed=self._seed(),
            temperature=ladder.temperature(self.run.annotation, self.rungs + 1),
            by_reference=by_reference,
        )

    def ended(self, replica: Replica, outcome: Reply | Umer1Error, seconds: float) -> None:
        if self.run.closed:
            return
        self.attempts += 1
        if isinstance(outcome, Reply):
            self._answered(replica, outcome, seconds)
        elif isinstance(outcome, BadInput):
            self._refused(replica, outcome, seconds)
        else:
            assert isinstance(outcome, Transient)
            self._failed(replica, outcome, seconds)

    def _answered(self, replica: Replica, reply: Reply, seconds: float) -> None:
        outcome = ladder.judge(reply)
        last = outcome == ladder.OK or self.rungs + 1 >= self.run.annotation.ladder.attempts
        attempt = self._attempt(outcome, replica, seconds, reply, keep_text=not last)
        self.rungs += 1
        self.first_failure = 0.0
        self.run.record(attempt, self._row(reply, seconds) if last else None)
        if not last:
            self.run.fleet.submit_later(self, 0.0)

    def _refused(self, replica: Replica, error: BadInput, seconds: float) -> None:
        if replica.by_reference and self.side["media"] and not self.inline:
            # The server may only not be allowed this file: its bytes decide.
            self.inline = True
            self.run.record(self._attempt("transient", replica, seconds, error=str(error)), None)
            self.run.fleet.submit_later(self, 0.0)
            return
        attempt = self._attempt("bad_input", replica, seconds, error=str(error))
        self.run.record(attempt, self._dead_letter(error.reason, error.detail, seconds))

    def _failed(self, replica: Replica, error: Transient, seconds: float) -> None:
        now = time.monotonic()
        self.first_failure = self.first_failure or now
        self.avoid.add(replica.base_url)
        attempt = self._attempt("transient", replica, seconds, error=error.message)
        if blames_row(error) and replica.trusted:
            self.blamed.add(replica.base_url)
            self.times += 1
        reason = self._hopeless(error, now)
        if reason:
            self.run.record(attempt, self._dead_letter(reason, error.message, seconds))
            return
        self.run.record(attempt, None)
        if self.run.fleet.elsewhere(self.avoid):
            self.run.fleet.submit_later(self, 0.0)
        else:
            self.avoid.clear()
            self.run.fleet.submit_later(self, _backoff(self.attempts))

    def _hopeless(self, error: Transient, now: float) -> str:
        """Why to give the side up, or nothing. No side is given up while no server answers anyone."""
        lost = isinstance(error, ServerLost)
        if self.times >= _BLAMED_TIMES or (len(self.blamed) >= _BLAMED_SERVERS and not lost):
            return _REASONS.get(type(error), "server_error")
        overdue = now - self.first_failure > self.run.annotation.deadline_s
        if overdue and self.run.fleet.last_answer < self.first_failure:
            self.run.fleet.roster.give_up()
            return ""
        return "deadline" if overdue else ""

    def _seed(self) -> int:
        side_key, sample = self.key
        round_ = self.run.rounds.get(side_key, 0)
        return request_seed(side_key, self.run.annotation.completion, round_, sample, self.rungs + 1)

    def _attempt(
        self,
        outcome: str,
        replica: Replica,
        seconds: float,
        reply: Reply | None = None,
        keep_text: bool = False,
        error: str = "",
    ) -> dict[str, Any]:
        return {
            "side_key": self.key[0],
            "sample": self.key[1],
            "source": self.side["source"],
            "attempt": self.attempts,
            "outcome": outcome,
            "seed": self._seed(),
            "temperature": ladder.temperature(self.run.annotation, self.rungs + 1),
            "finish_reason": reply.finish_reason if reply else "",
            "prompt_tokens": reply.prompt_tokens if reply else 0,
            "completion_tokens": reply.completion_tokens if reply else 0,
            "seconds": round(seconds, 3),
            "replica": replica.base_url,
            "completion": reply.text if reply and keep_text else "",
            "error": error,
        }

    def _row(self, reply: Reply, seconds: float, reason: str = "", error: str = "") -> dict[str, Any]:
        return {
            "side_key": self.key[0],
            "sample": self.key[1],
            "source": self.side["source"],
            "completion": reply.text,
            "finish_reason": reply.finish_reason,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "attempts": self.attempts,
            "round": self.run.rounds.get(self.key[0], 0),
            "seconds": round(seconds, 3),
            "annotator": self.run.annotator,
            "reason": reason,
            "error": error,
        }

    def _dead_letter(self, reason: str, error: str, seconds: float) -> dict[str, Any]:
        return self._row(Reply("", "error", 0, 0), seconds, reason, error)


def wanted(sides: Sequence[dict[str, Any]], samples: int) -> dict[Key, Wanted]:
    """Every (side, sample) of a shard in the order of sending. A side has no more samples than uses."""
    return {
        (side["side_key"], sample): (side, sample)
        for side in send_order(sides)
        for sample in range(min(samples, max(1, side["uses"])))
    }


def _backoff(attempt: int) -> float:
    return float(min(_BACKOFF_LIMIT, _BACKOFF_SECONDS * 2 ** min(attempt - 1, 10)) * random.uniform(0.7, 1.3))
