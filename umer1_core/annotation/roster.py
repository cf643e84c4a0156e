"""Which servers there are and how they are: examined when they join, watched while they serve, trusted again after.

Guarantees: a wrong server is never given work; one that dies, hangs or fails at everything is given none until it has
answered again; servers come and go while the run is at work; a run without any ends, but not before its deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from schemas.recipe import Annotation
from umer1_core.annotation.client import ChatClient
from umer1_core.annotation.replica import Replica, State, parse_load, steer
from umer1_core.errors import BadInput, BadOutput, Fatal, Transient, Umer1Error, Unreachable, safe_url

_TICK_SECONDS = 0.25
_POLL_SECONDS, _POLL_TIMEOUT = 1.0, 5.0
_RETURN_SECONDS, _RETURN_LIMIT = 0.5, 10.0
_FROZEN_POLLS = 3
_CANARY_SECONDS = 60.0
_LIST_SECONDS = 5.0

Examine = Callable[[ChatClient, str], Awaitable[bool]]  # whether the server reads media by reference; Fatal: wrong one


class Roster:
    """Lives in one event loop. `failed` holds the error that ended it; `on_failure` is told at once.

    canary: the smallest request there is; a server that answers it after it was ejected is well again.
    on_room: told when servers may have room again; on_leave: when one will take no more.
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
        self.on_room: Callable[[], None] = lambda: None
        self.on_leave: Callable[[Replica], None] = lambda replica: None
        self._examine, self._canary, self._on_failure = examine, canary, on_failure
        self._tasks: set[asyncio.Task[None]] = set()
        self._opened = False
        self._last_served = time.monotonic()

    async def open(
        self, addresses: list[str], patience_s: float, reread: Callable[[], list[str]] | None = None
    ) -> None:
        """Ready when a server is. Raises Fatal when one is the wrong server, or none answers within patience_s."""
        self.set_addresses(addresses)
        self.start(self._tick())
        if reread:
            self.start(self._follow_addresses(reread))
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
                self.start(self._watch(replica))
        for base_url, replica in self.replicas.items():
            if base_url not in wanted and replica.state is not State.LEAVING:
                replica.state = State.LEAVING
                self.say(f"{safe_url(base_url)} was taken out of the endpoints.")
                self.on_leave(replica)

    def serving(self) -> list[Replica]:
        return [replica for replica in self.replicas.values() if replica.state is State.SERVING]

    def refuse(self, replica: Replica, error: Fatal) -> None:
        """A wrong server is never asked again; the run ends only when no other is left."""
        replica.state, replica.last_error = State.REFUSED, error.message
        self.on_leave(replica)
        others = (r.state for r in self.replicas.values() if r is not replica)
        if not self._opened or all(state in (State.REFUSED, State.LEAVING) for state in others):
            self.fail(error)
        else:
            self.say(f"{error} It is left out.")

    def give_up(self) -> None:
        """End the run: nobody has answered anything for as long as a side may wait."""
        self.fail(
            Fatal(
                f"No annotator has answered for {self.annotation.deadline_s:g} s ({self._last_error()}).",
                "Bring it back and run the same command: finished rows are kept.",
            )
        )

    def fail(self, error: Umer1Error) -> None:
        if self.failed is None:
            self.failed = error
            self._on_failure(error)

    def _last_error(self) -> str:
        return next((r.last_error for r in self.replicas.values() if r.last_error), "")

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self.ended)

    def ended(self, task: asyncio.Task[None]) -> None:
        """A watcher that dies of a fault of ours must end the run, not freeze it."""
        self._tasks.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            error = task.exception()
            if error is not None:
                self.fail(Fatal(f"The annotation engine failed: {error!r}"))

    async def _tick(self) -> None:
        """Paces of servers that say nothing of themselves, rests that end, and the end of all patience."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            serving = self.serving()
            for replica in serving:
                if replica.load is None:
                    replica.pace = steer(replica.pace, replica.busy_with, None, None, replica.ceiling)
            if serving:
                self._last_served = time.monotonic()
            elif time.monotonic() - self._last_served > self.annotation.deadline_s:
                self.give_up()
            self.on_room()

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
            self.refuse(replica, error)
            return True
        if replica.state is State.LEAVING:
            return True
        replica.serve(by_reference)
        self._last_served = time.monotonic()  # it may be ejected again before anybody looks
        self.say(f"{safe_url(replica.base_url)} {'is ready' if joining else 'is back'}.")
        self.on_room()
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
            replica.pace = steer(replica.pace, replica.busy_with, replica.load, before, replica.ceiling, replica.rate)
        self.on_room()
        return True

    def _abandon(self, replica: Replica) -> None:
        """It neither answers nor breaks its connections: what it holds is asked elsewhere."""
        self.say(f"{safe_url(replica.base_url)} no longer answers; its {replica.busy_with} requests go elsewhere.")
        replica.eject()
        for task in replica.tasks:
            task.cancel()

    async def _follow_addresses(self, reread: Callable[[], list[str]]) -> None:
        while True:
            await asyncio.sleep(_LIST_SECONDS)
            try:
                self.set_addresses(await asyncio.to_thread(reread))
            except (OSError, Umer1Error) as error:
                self.say(f"The list of endpoints cannot be read ({error}); those known are kept.")
