"""The servers of a run as one: every piece of work goes to a server with room, and away from one that fails.

Guarantees: a server never has more than its pace allows; work that waits or sleeps holds no place; equal affinity goes
to the same server while that one keeps up, and is taken over by whoever is idle; a slow server is given nothing that
the others would finish sooner; servers come and go while the run is at work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol
from zlib import crc32

from schemas.recipe import Annotation
from umer1_core.annotation.client import ChatClient, Reply
from umer1_core.annotation.replica import LANES, Lane, Replica, State, parse_load, steer
from umer1_core.errors import BadInput, BadOutput, Fatal, ServerLost, Transient, Umer1Error, Unreachable, safe_url

_TICK_SECONDS = 0.25
_POLL_SECONDS, _POLL_TIMEOUT = 1.0, 5.0
_RETURN_SECONDS, _RETURN_LIMIT = 0.5, 10.0
_FROZEN_POLLS = 3
_CANARY_SECONDS = 60.0
_LIST_SECONDS = 5.0
_LOOK_AHEAD = 16


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


Examine = Callable[[ChatClient, str], Awaitable[bool]]  # whether the server reads media by reference; Fatal: wrong one


class Fleet:
    """Lives in one event loop. `failed` holds the error that ended it; `on_failure` is told at once.

    canary: the smallest request there is; a server that answers it after it was ejected is well again.
    """

    def __init__(
        self,
        annotation: Annotation,
        client: ChatClient,
        examine: Examine,
        canary: bytes,
        on_failure: Callable[[Umer1Error], None],
        say: Callable[[str], None] = logging.getLogger(__name__).info,
    ) -> None:
        self.annotation, self.client, self.say = annotation, client, say
        self.replicas: dict[str, Replica] = {}
        self.failed: Umer1Error | None = None
        self._examine, self._canary, self._on_failure = examine, canary, on_failure
        self.sent: dict[Work, tuple[Replica, float]] = {}
        self._common: dict[Lane, deque[Work]] = {lane: deque() for lane in LANES}
        self._tasks: set[asyncio.Task[None]] = set()
        self._opened = False
        self.queued = 0
        self._fastest = self._rate = 0.0
        self._last_served = time.monotonic()
        self.last_reply = 0.0

    # -- life ----------------------------------------------------------------------------------------------------

    async def open(
        self, addresses: list[str], patience_s: float, reread: Callable[[], list[str]] | None = None
    ) -> None:
        """Ready when a server is. Raises Fatal when one is the wrong server, or none answers within patience_s."""
        self.set_addresses(addresses)
        self._start(self._tick())
        if reread:
            self._start(self._follow_addresses(reread))
        deadline = time.monotonic() + patience_s
        while not self._is_ready(time.monotonic() > deadline):
            await asyncio.sleep(0.02)
        self._opened = True
        self._last_served = time.monotonic()

    def _is_ready(self, impatient: bool) -> bool:
        if self.failed:
            raise self.failed
        serving = any(r.state is State.SERVING for r in self.replicas.values())
        joining = [r for r in self.replicas.values() if r.state is State.JOINING]
        # One that is being examined has answered; the examination may take longer than one is ready to wait.
        if not impatient or any(not r.last_error for r in joining):
            return serving and not joining
        if not serving:
            raise Fatal(
                f"No annotator answers ({self._last_error() or 'no endpoint is given'}).",
                "Start it, or correct `annotation.endpoints` in the recipe; then run the same command.",
            )
        return True

    async def close(self) -> None:
        for task in [*self._tasks, *(t for r in self.replicas.values() for t in r.tasks)]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def set_addresses(self, addresses: list[str]) -> None:
        """New ones are examined and used; those that are gone finish what they have."""
        wanted = [address.rstrip("/") for address in addresses]
        for base_url in wanted:
            known = self.replicas.get(base_url)
            if known is None or known.state is State.LEAVING:
                replica = Replica(base_url, self.annotation.concurrency, self.annotation.video_concurrency)
                self.replicas[base_url] = replica
                self._start(self._watch(replica))
        for base_url, replica in self.replicas.items():
            if base_url not in wanted and replica.state is not State.LEAVING:
                replica.state = State.LEAVING
                self.say(f"{safe_url(base_url)} was taken out of the endpoints.")
                self._give_back_queue(replica)

    # -- work ----------------------------------------------------------------------------------------------------

    def submit(self, work: Work, first: bool = False) -> None:
        """Queue work; `first` where it was waited for already."""
        home = self._home(work.affinity) if work.affinity else None
        queue: deque[Any] = self._common[work.lane] if home is None or work.avoid else home.queues[work.lane]
        (queue.appendleft if first else queue.append)(work)
        self.queued += 1

    def submit_later(self, work: Work, seconds: float) -> None:
        """The pause of a retry: it holds no place in a server and none in a queue."""
        asyncio.get_running_loop().call_later(seconds, self._submit_again, work)

    def elsewhere(self, avoid: set[str]) -> bool:
        """Whether a server is there that is not in `avoid`."""
        return any(r.state is State.SERVING and r.base_url not in avoid for r in self.replicas.values())

    def dispatch(self) -> None:
        """Give work to every server with room, in turn, so that a start loads them evenly."""
        serving = [replica for replica in self.replicas.values() if replica.state is State.SERVING]
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
                return True
        return False

    def _next(self, replica: Replica, lane: Lane) -> Work | None:
        """Its own work first, then everybody's, then that of the server with the most left."""
        if self.queued == 0 or self._would_drag(replica):
            return None
        work = self._take(replica.queues[lane], replica) or self._take(self._common[lane], replica)
        if work is None:
            work = self._take(max((r.queues[lane] for r in self.replicas.values()), key=len), replica)
        return work

    def _take(self, queue: deque[Any], replica: Replica) -> Work | None:
        """The first work that this server has not failed on, unless nobody else is there to take it."""
        while queue and not queue[0].wanted:
            queue.popleft()
            self.queued -= 1
        for place in range(min(len(queue), _LOOK_AHEAD)):
            work: Work = queue[place]
            if replica.base_url not in work.avoid or not self.elsewhere(work.avoid):
                del queue[place]
                self.queued -= 1
                return work
        return None

    def _would_drag(self, replica: Replica) -> bool:
        """Whether the other servers will be done with all that is queued before this one has answered once."""
        others = self._rate - replica.rate
        if replica.latency < 2 * self._fastest or others <= 0:
            return False
        return self.queued / others + 1.5 * self._fastest < replica.latency

    async def _run(self, work: Work, replica: Replica) -> None:
        started = time.monotonic()
        self.sent[work] = (replica, started)
        outcome: Reply | Umer1Error
        try:
            outcome = await self.client.complete(replica.base_url, await work.body(replica))
            replica.succeeded(time.monotonic() - started, outcome.completion_tokens)
            self.last_reply = time.monotonic()
        except asyncio.CancelledError:
            if replica.state is not State.AWAY:
                raise
            outcome = ServerLost(f"{safe_url(replica.base_url)} no longer moves")
        except Transient as error:
            replica.failed(error)
            outcome = error
        except Fatal as error:
            self._refuse(replica, error)
            outcome = Transient(error.message)
        except BadInput as error:
            replica.failures = 0  # a refusal is an answer
            outcome = error
        finally:
            replica.in_flight[work.lane] -= 1
            del self.sent[work]
        if self.failed is None:
            work.ended(replica, outcome, time.monotonic() - started)
        self.dispatch() if replica.state is not State.SERVING else self._refill(replica)

    def _refill(self, replica: Replica) -> None:
        while self._give(replica):
            pass

    def _home(self, affinity: str) -> Replica | None:
        """Rendezvous hashing: a server that comes or goes moves only its own share."""
        serving = [r for r in self.replicas.values() if r.state is State.SERVING]
        return max(serving, key=lambda r: crc32(f"{r.base_url}{affinity}".encode())) if len(serving) > 1 else None

    def _give_back_queue(self, replica: Replica) -> None:
        for lane in LANES:
            self._common[lane].extendleft(reversed(replica.queues[lane]))  # type: ignore[arg-type]
            replica.queues[lane].clear()

    # -- watching ------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Paces of servers that say nothing of themselves, rests that end, and the end of all patience."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            serving = [r for r in self.replicas.values() if r.state is State.SERVING]
            for replica in serving:
                if replica.load is None:
                    replica.pace = steer(replica.pace, replica.busy_with, None, None, replica.ceiling)
            self._fastest = min((r.latency for r in serving if r.latency), default=0.0)
            self._rate = sum(r.rate for r in serving)
            if serving:
                self._last_served = time.monotonic()
            elif time.monotonic() - self._last_served > self.annotation.deadline_s:
                self.give_up()
            self.dispatch()

    async def _watch(self, replica: Replica) -> None:
        pause = misses = 0.0
        while replica.state not in (State.REFUSED, State.LEAVING):
            if replica.state is State.SERVING:
                misses = 0.0 if await self._poll(replica) else misses + 1
                if misses >= _FROZEN_POLLS and time.monotonic() - replica.last_answer > misses * _POLL_SECONDS:
                    self._abandon(replica)
                pause = 0.0
                await asyncio.sleep(_TICK_SECONDS if replica.load and replica.pace.ramping else _POLL_SECONDS)
            else:
                pause = min(_RETURN_LIMIT, max(_RETURN_SECONDS, 1.5 * pause))
                if not await self._try_admit(replica):
                    await asyncio.sleep(pause)

    async def _try_admit(self, replica: Replica) -> bool:
        joining = replica.state is State.JOINING
        try:
            by_reference = replica.by_reference
            if joining:
                by_reference = await self._examine(self.client, replica.base_url)
            else:
                async with asyncio.timeout(_CANARY_SECONDS):
                    await self.client.complete(replica.base_url, self._canary)
        except (Transient, BadInput) as error:
            replica.last_error = error.message
            return False
        except TimeoutError:
            return False
        except Fatal as error:
            self._refuse(replica, error)
            return True
        if replica.state is State.LEAVING:
            return True
        replica.serve(by_reference)
        self.say(f"{safe_url(replica.base_url)} {'is ready' if joining else 'is back'}.")
        self.dispatch()
        return True

    async def _poll(self, replica: Replica) -> bool:
        """Whether the server answered at all; its load steers its pace."""
        root = replica.base_url.removesuffix("/v1")
        try:
            page = await self.client.get(f"{root}/metrics", _POLL_TIMEOUT)
        except (Fatal, BadInput, BadOutput):
            return True  # no such page: another kind of server, steered by its answers alone
        except Transient as error:
            replica.last_error = error.message
            if isinstance(error, Unreachable):
                replica.eject()
            return False
        before, replica.load = replica.load, parse_load(page)
        if replica.load is not None and replica.state is State.SERVING:
            replica.pace = steer(replica.pace, replica.busy_with, replica.load, before, replica.ceiling)
        self._refill(replica)
        return True

    def _abandon(self, replica: Replica) -> None:
        """It neither answers nor breaks its connections: what it holds is asked elsewhere."""
        self.say(f"{safe_url(replica.base_url)} no longer answers; its {replica.busy_with} requests go elsewhere.")
        replica.eject()
        for task in replica.tasks:
            task.cancel()

    def _refuse(self, replica: Replica, error: Fatal) -> None:
        """A wrong server is never asked again; the run ends only when no other is left."""
        replica.state, replica.last_error = State.REFUSED, error.message
        self._give_back_queue(replica)
        others = (r.state for r in self.replicas.values() if r is not replica)
        if not self._opened or all(state in (State.REFUSED, State.LEAVING) for state in others):
            self._fail(error)
        else:
            self.say(f"{error} It is left out.")

    async def _follow_addresses(self, reread: Callable[[], list[str]]) -> None:
        while True:
            await asyncio.sleep(_LIST_SECONDS)
            try:
                self.set_addresses(await asyncio.to_thread(reread))
            except (OSError, Umer1Error) as error:
                self.say(f"The list of endpoints cannot be read ({error}); those known are kept.")

    def give_up(self) -> None:
        """End the run: nobody has answered anything for as long as a side may wait."""
        self._fail(
            Fatal(
                f"No annotator has answered for {self.annotation.deadline_s:g} s ({self._last_error()}).",
                "Bring it back and run the same command: finished rows are kept.",
            )
        )

    def _fail(self, error: Umer1Error) -> None:
        if self.failed is None:
            self.failed = error
            self._on_failure(error)

    def _last_error(self) -> str:
        return next((r.last_error for r in self.replicas.values() if r.last_error), "")

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A watcher that dies of a fault of ours must end the run, not freeze it."""
        self._tasks.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            error = task.exception()
            if error is not None:
                self._fail(Fatal(f"The annotation engine failed: {error!r}"))
