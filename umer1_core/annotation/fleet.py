"""The servers of a run as one: every piece of work goes to a server with room, and away from one that fails.

Guarantees: a server never has more than its pace allows; work that waits or sleeps holds no place; equal affinity goes
to the same server while that one keeps up, and is taken over by whoever is idle; a slow server is given nothing that
the others would finish sooner.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, Protocol
from zlib import crc32

from umer1_core.annotation.client import ChatClient, Reply
from umer1_core.annotation.replica import LANES, Lane, Replica, State
from umer1_core.annotation.roster import Roster
from umer1_core.errors import BadInput, Fatal, ServerLost, Transient, Umer1Error, safe_url

_LOOK_AHEAD = 16
_SURELY = 1.5  # some requests take longer than the mean, and the run ends with the last of them


class Work(Protocol):
    """A completion that is wanted."""

    lane: Lane
    affinity: str  # equal for work that shares media; empty where nothing is shared
    avoid: set[str]  # servers that failed on it

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def wanted(self) -> bool:
        """False once its shard has ended: it is dropped unsent."""

    async def body(self, replica: Replica) -> bytes:
        """The request. Raises BadInput when its media cannot be read."""

    def ended(self, replica: Replica, outcome: Reply | Umer1Error, seconds: float) -> None:
        """Called once for every time it was sent; may submit it again."""


class Fleet:
    """The work side of a roster. `sent`: what is being waited for, where, and since when (monotonic)."""

    def __init__(self, client: ChatClient, roster: Roster) -> None:
        self.client, self.roster = client, roster
        self.sent: dict[Work, tuple[Replica, float]] = {}
        self.queued = 0
        self._common: dict[Lane, deque[Work]] = {lane: deque() for lane in LANES}
        self._fastest = self._rate = 0.0
        roster.on_room, roster.on_leave = self._look_around, self._give_back_queue

    def submit(self, work: Work, first: bool = False) -> None:
        """Queue work; `first` where it was waited for already."""
        home = self._home(work.affinity) if work.affinity else None
        queue: deque[Any] = self._common[work.lane] if home is None or work.avoid else home.queues[work.lane]
        (queue.appendleft if first else queue.append)(work)
        self.queued += 1

    def submit_later(self, work: Work, seconds: float) -> None:
        """The pause of a retry: it holds no place in a server and none in a queue."""
        asyncio.get_running_loop().call_later(seconds, self._submit_again, work)

    @property
    def last_answer(self) -> float:
        """When any server last answered anything, be it only whether it is back (monotonic)."""
        return max((replica.last_answer for replica in self.roster.replicas.values()), default=0.0)

    def elsewhere(self, avoid: set[str]) -> bool:
        """Whether a server is there that is not in `avoid`."""
        return any(replica.base_url not in avoid for replica in self.roster.serving())

    def dispatch(self) -> None:
        """Give work to every server with room, in turn, so that a start loads them evenly."""
        serving = self.roster.serving()
        while serving:
            serving = [replica for replica in serving if self._give(replica)]

    def _submit_again(self, work: Work) -> None:
        self.submit(work, first=True)
        self.dispatch()

    def _give(self, replica: Replica) -> bool:
        for lane in LANES:
            work = self._next(replica, lane) if replica.has_room(lane) else None
            if work is not None:
                replica.in_flight[lane] += 1
                task = asyncio.create_task(self._run(work, replica))
                replica.tasks.add(task)
                task.add_done_callback(replica.tasks.discard)
                task.add_done_callback(self.roster.ended)
                return True
        return False

    def _next(self, replica: Replica, lane: Lane) -> Work | None:
        """Its own work first, then everybody's, then that of the server with the most left."""
        if self.queued == 0:
            return None
        drags = self._would_drag(replica)
        work = self._take(replica.queues[lane], replica, drags) or self._take(self._common[lane], replica, drags)
        if work is None:
            longest = max((r.queues[lane] for r in self.roster.replicas.values()), key=len)
            work = self._take(longest, replica, drags)
        return work

    def _take(self, queue: deque[Any], replica: Replica, drags: bool) -> Work | None:
        """The first work that this server has not failed on; one that drags takes only what nobody else may.

        Where no server is left that has not failed on it, any may take it: nothing may wait for ever.
        """
        while queue and not queue[0].wanted:
            queue.popleft()
            self.queued -= 1
        for place in range(min(len(queue), _LOOK_AHEAD)):
            work: Work = queue[place]
            others = self.elsewhere(work.avoid | {replica.base_url}) if drags or work.avoid else False
            if not (others and (drags or replica.base_url in work.avoid)):
                del queue[place]
                self.queued -= 1
                return work
        return None

    def _would_drag(self, replica: Replica) -> bool:
        """Whether the other servers will be done with all that is queued before this one has surely answered."""
        others, expected = self._rate - replica.rate, replica.expected
        if expected < 2 * self._fastest or others <= 0:
            return False
        return self.queued / others + self._fastest < _SURELY * expected

    async def _run(self, work: Work, replica: Replica) -> None:
        started = time.monotonic()
        self.sent[work] = (replica, started)
        outcome: Reply | Umer1Error
        try:
            outcome = await self._ask(work, replica)
        except asyncio.CancelledError:
            if replica.state is not State.AWAY:
                raise
            outcome = ServerLost(f"{safe_url(replica.base_url)} no longer moves")
        except Transient as error:
            replica.failed(error)
            outcome = error
        except Fatal as error:
            self.roster.refuse(replica, error)
            outcome = Transient(error.message)
        except BadInput as error:
            outcome = error
        finally:
            replica.in_flight[work.lane] -= 1
            del self.sent[work]
        if self.roster.failed is None:
            work.ended(replica, outcome, time.monotonic() - started)
        if replica.state is State.SERVING:
            while self._give(replica):
                pass
        else:
            self.dispatch()

    async def _ask(self, work: Work, replica: Replica) -> Reply:
        started = time.monotonic()
        body = await work.body(replica)
        try:
            reply = await self.client.complete(replica.base_url, body)
        except BadInput:
            replica.failures = 0  # a refusal is an answer
            raise
        replica.succeeded(time.monotonic() - started, reply.completion_tokens)
        return reply

    def _look_around(self) -> None:
        """How fast the servers are together, for `_would_drag`, and what can be given now."""
        serving = self.roster.serving()
        self._fastest = min((r.expected for r in serving if r.gap), default=0.0)
        self._rate = sum(r.rate for r in serving)
        self.dispatch()

    def _home(self, affinity: str) -> Replica | None:
        """Rendezvous hashing: a server that comes or goes moves only its own share."""
        serving = self.roster.serving()
        return max(serving, key=lambda r: crc32(f"{r.base_url}{affinity}".encode())) if len(serving) > 1 else None

    def _give_back_queue(self, replica: Replica) -> None:
        for lane in LANES:
            self._common[lane].extendleft(reversed(replica.queues[lane]))  # type: ignore[arg-type]
            replica.queues[lane].clear()
