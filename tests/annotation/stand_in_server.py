"""An OpenAI-compatible server with set latencies and set failures: several replicas, a port each, in one process.

    python -m tests.annotation.stand_in_server '[{"port": 9000, "latency": 0.05, "slots": 64}]'

It prints its ports when it listens. A completion echoes its side's text. A text that holds `fault:NAME*N` fails in that
way the first N times it is asked on any replica (without `*N` always); NAME is `http` with a status, or a key of
`FAULTS`. /record has every request, so a test can count what a run really asked. Asyncio protocols and orjson only:
the server shares two cores with the client that is measured.
"""

from __future__ import annotations

import asyncio
import collections
import random
import re
import sys
import time
from dataclasses import dataclass, field
from typing import cast

import orjson
import uvloop

from tests.annotation.stand_in_answers import FAULTS, MODEL, completion, metrics

_FAULT = re.compile(r"fault:([a-z_]+)(\d*)(?:\*(\d+))?")


@dataclass(frozen=True)
class Replica:
    """How one port behaves. Latencies are uniform in (1 ± spread) times the mean."""

    port: int = 0
    latency: float = 0.0
    spread: float = 0.5
    slots: int = 0  # requests that run at a time; further ones wait, as in vLLM; 0: any number
    metrics: bool = True
    loading_s: float = 0.0  # 503 for so long
    model: str = MODEL
    max_model_len: int = 32768
    no_files: bool = False
    busy_every: int = 0  # each so many requests, one 503
    refuse_word: str = ""  # 400 for texts that hold it
    drop_word: str = ""  # the connection closes on texts that hold it
    fault: str = ""  # as if every text held it, as `http500` or `other_model`
    key: str = ""  # the bearer key that it asks for
    completion_chars: int = 0  # of the reasoning, at least


@dataclass
class Requested:
    """One chat request, from arrival to its answer."""

    connection: Connection
    text: str
    close: bool
    media: int = 0
    timer: asyncio.TimerHandle | None = None
    running: bool = False


@dataclass
class State:
    """What one replica does and has counted."""

    replica: Replica
    number: int
    started: float
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    running: int = 0
    waiting: collections.deque[Requested] = field(default_factory=collections.deque)
    most_running: int = 0


class World:
    """All replicas of this process: how often each text was asked, and every request in the order of arrival."""

    def __init__(self) -> None:
        self.seen: collections.Counter[str] = collections.Counter()
        self.failed: collections.Counter[str] = collections.Counter()
        self.record: list[tuple[float, int, str]] = []
        self.replicas: list[State] = []

    def stats(self) -> dict[str, object]:
        total: collections.Counter[str] = collections.Counter()
        for state in self.replicas:
            total.update(state.counts)
        return dict(total) | {
            "most_often": max(self.seen.values(), default=0),
            "distinct": len(self.seen),
            "cpu_s": time.process_time(),
            "by_replica": [dict(state.counts) | {"most_running": state.most_running} for state in self.replicas],
        }


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive and content-length, one request at a time, which is what clients send."""

    transport: asyncio.Transport

    def __init__(self, world: World, state: State, loop: asyncio.AbstractEventLoop) -> None:
        self.world, self.state, self.loop = world, state, loop
        self.buffer = bytearray()
        self.needed = 0
        self.current: Requested | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own does not inherit from it

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) < self.needed:
            return
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.buffer[:end]).decode("latin-1")
        length = re.search(r"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        self.needed = end + 4 + (int(length[1]) if length else 0)
        if len(self.buffer) < self.needed:
            return
        body = bytes(self.buffer[end + 4 : self.needed])
        del self.buffer[: self.needed]
        self.needed = 0
        self._route(head, body)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.current is not None:
            _leave(self.state, self.current)
            self.current = None

    def _route(self, head: str, body: bytes) -> None:
        method, path, _ = head.split(" ", 2)
        close = "connection: close" in head.lower()
        state, replica, now = self.state, self.state.replica, self.loop.time()
        if path == "/stats":
            return self.send(orjson.dumps(self.world.stats()), close)
        if path == "/record":
            return self.send(orjson.dumps(self.world.record), close)
        if now - state.started < replica.loading_s:
            return self.fail(503, "the model is loading", close)
        if replica.key and f"Bearer {replica.key}" not in head:
            return self.fail(401, "no such key", close)
        if path == "/v1/models":
            model = {"id": replica.model, "object": "model", "max_model_len": replica.max_model_len}
            return self.send(orjson.dumps({"object": "list", "data": [model]}), close)
        if path == "/health":
            return self.send(b"", close)
        if path == "/metrics" and replica.metrics:
            return self.send(
                metrics(state.running, len(state.waiting), replica.slots),
                close,
                content_type="text/plain; version=0.0.4; charset=utf-8",
            )
        if path == "/v1/chat/completions" and method == "POST":
            return self._chat(body, close)
        return self.fail(404, "not found", close)

    def _chat(self, body: bytes, close: bool) -> None:
        state, replica = self.state, self.state.replica
        content = orjson.loads(body)["messages"][0]["content"]
        text = (content if isinstance(content, str) else content[-1]["text"]).split("\n\n")[0]
        self.world.seen[text] += 1
        self.world.record.append((time.monotonic(), state.number, text))
        state.counts["requests"] += 1
        if replica.refuse_word and replica.refuse_word in text:
            return self.fail(400, "cannot read this input", close)
        if replica.drop_word and replica.drop_word in text:
            return self.transport.abort()
        if replica.busy_every and state.counts["requests"] % replica.busy_every == 0:
            return self.fail(503, "overloaded", close)
        if replica.no_files and b'"url":"file://' in body:
            return self.fail(400, "Cannot load local files without `--allowed-local-media-path`.", close)
        asked = Requested(self, text, close, 0 if isinstance(content, str) else len(content) - 1)
        self.current = asked
        _enter(state, asked)
        return None

    def answer(self, asked: Requested) -> None:
        """The end of a request's time in the server: its fault, or its completion."""
        self.current = None
        _leave(self.state, asked)
        fault = _FAULT.search(asked.text) or _FAULT.search(f"fault:{self.state.replica.fault}")
        if fault and (not fault[3] or self.world.failed[asked.text] < int(fault[3])):
            self.world.failed[asked.text] += 1
            if fault[1].startswith("http"):
                return self.fail(
                    int(fault[2]), "as it was told to", asked.close, "retry-after: 1\r\n" * ("_after" in fault[1])
                )
            return FAULTS[fault[1]](self, asked.text, asked.close)
        self.state.counts["answered"] += 1
        replica = self.state.replica
        return self.send(
            completion(asked.text, model=replica.model, length=replica.completion_chars, media=asked.media),
            asked.close,
        )

    def fail(self, status: int, message: str, close: bool, headers: str = "") -> None:
        self.send(orjson.dumps({"error": {"message": message, "code": status}}), close, status, headers=headers)

    def send(
        self,
        body: bytes,
        close: bool = False,
        status: int = 200,
        content_type: str = "application/json",
        headers: str = "",
    ) -> None:
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        self.transport.write(head.encode() + body)
        if close:
            self.transport.close()

    def drip(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b" ")
            self.loop.call_later(1.0, self.drip)


# -- the slots of a replica ------------------------------------------------------------------------------------------


def _enter(state: State, asked: Requested) -> None:
    if state.replica.slots and state.running >= state.replica.slots:
        state.waiting.append(asked)
        return
    state.running += 1
    state.most_running = max(state.most_running, state.running)
    asked.running = True
    replica = state.replica
    seconds = replica.latency * random.uniform(1 - replica.spread, 1 + replica.spread)
    if seconds:
        asked.timer = asked.connection.loop.call_later(seconds, asked.connection.answer, asked)
    else:
        asked.connection.answer(asked)


def _leave(state: State, asked: Requested) -> None:
    if asked.timer is not None:
        asked.timer.cancel()
    if not asked.running:
        state.waiting.remove(asked)
        return
    asked.running = False
    state.running -= 1
    if state.waiting:
        _enter(state, state.waiting.popleft())


async def serve(replicas: list[Replica]) -> None:
    """Serves until the process ends; prints the ports, a JSON list, once all of them listen."""
    loop, world = asyncio.get_running_loop(), World()
    ports = []
    for number, replica in enumerate(replicas):
        state = State(replica, number, loop.time())
        world.replicas.append(state)
        server = await loop.create_server(
            lambda state=state: Connection(world, state, loop), "127.0.0.1", replica.port, backlog=4096
        )
        ports.append(server.sockets[0].getsockname()[1])
    sys.stdout.write(orjson.dumps(ports).decode() + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve([Replica(**settings) for settings in orjson.loads(sys.argv[1])]))
