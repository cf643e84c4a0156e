"""One annotation server: how much it is given, when it is left alone, and when it is trusted again.

Guarantees: `steer` is pure. What a server is given follows what it says of itself (vLLM's /metrics: running, waiting,
KV cache, preemptions), not its errors: stock vLLM queues without end and answers 200.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from umer1_core.errors import BadOutput, Busy, ServerFailed, ServerLost, Transient, Unreachable

Lane = Literal["clip", "other"]
LANES: tuple[Lane, ...] = ("clip", "other")

_FIRST_LIMIT = 128  # a burst of thousands at the start overruns accept queues and preprocessing
_KV_FULL = 0.95
_ILL_AFTER = 3  # failures in a row, over whatever requests
_LATENCY_WEIGHT, _GAP_WEIGHT = 0.1, 0.05
_REST_SECONDS, _REST_LIMIT = 0.25, 15.0


@dataclass(frozen=True, slots=True)
class Load:
    """What vLLM says: requests running and waiting, KV cache in use (0..1), preemptions since it started."""

    running: int
    waiting: int
    kv_usage: float
    preemptions: int


@dataclass(frozen=True, slots=True)
class Pace:
    """Requests a server may have at a time. `ramping`: still looking for how much that is."""

    limit: int
    ramping: bool = True


def first_pace(ceiling: int) -> Pace:
    return Pace(min(ceiling, _FIRST_LIMIT))


def steer(pace: Pace, in_flight: int, load: Load | None, before: Load | None, ceiling: int, rate: float = 0.0) -> Pace:
    """The next pace. Some requests always wait in the server, so that a place that falls free is taken at once.

    rate: answers a second.
    """
    if load is None:
        return _grown(pace, pace.limit + 1, ceiling)
    if before is not None and load.preemptions > before.preemptions:
        return Pace(max(1, int(0.9 * min(pace.limit, load.running))), False)
    # As many as are answered until it is looked at again, an eighth of what runs, or a few.
    spare = max(4, load.running // 8, min(load.running, int(rate)))
    if load.waiting > spare:
        return Pace(max(1, min(pace.limit, in_flight - (load.waiting - spare))), False)
    # What is neither running nor waiting is being preprocessed: more requests would only lengthen that queue.
    unseen = in_flight - load.running - load.waiting
    if in_flight < 0.9 * pace.limit or unseen > max(_FIRST_LIMIT, load.running) or load.kv_usage >= _KV_FULL:
        return pace
    return _grown(pace, pace.limit + max(1, pace.limit // 8), ceiling)


def _grown(pace: Pace, otherwise: int, ceiling: int) -> Pace:
    limit = min(ceiling, 2 * pace.limit if pace.ramping else otherwise)
    return Pace(limit, pace.ramping and limit < ceiling)


_NAMES = re.compile(
    rb"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|num_preemptions(?:_total)?)"
    rb"(?:\{[^}]*\})? ([0-9.eE+-]+)$",
    re.MULTILINE,
)


def parse_load(metrics: bytes) -> Load | None:
    """From vLLM's Prometheus page, over all engines of the server; None when it is someone else's page."""
    found: dict[str, list[float]] = {}
    for name, value in _NAMES.findall(metrics):
        found.setdefault(name.decode().removesuffix("_total"), []).append(float(value))
    if "num_requests_running" not in found:
        return None
    return Load(
        running=int(sum(found["num_requests_running"])),
        waiting=int(sum(found.get("num_requests_waiting", [0.0]))),
        kv_usage=max(found.get("kv_cache_usage_perc", [0.0])),
        preemptions=int(sum(found.get("num_preemptions", [0.0]))),
    )


class State(StrEnum):
    JOINING = "joining"  # not examined yet
    SERVING = "serving"
    AWAY = "away"  # ejected; asked now and then whether it is back
    LEAVING = "leaving"  # taken out of the endpoints; finishes what it has
    REFUSED = "refused"  # the wrong server: never asked again


@dataclass(slots=True, eq=False)
class Replica:
    """The state the fleet keeps of a server. Times are of the monotonic clock, latencies in seconds."""

    base_url: str
    ceiling: int
    clip_ceiling: int
    by_reference: bool = False
    state: State = State.JOINING
    pace: Pace = field(default_factory=lambda: Pace(0))
    load: Load | None = None
    in_flight: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(LANES, 0))
    queues: dict[Lane, deque[object]] = field(default_factory=lambda: {lane: deque() for lane in LANES})
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    latency: float = 0.0
    gap: float = 0.0  # between answers, while it has work
    idle: bool = True
    answered: int = 0
    tokens: int = 0
    failures: int = 0
    last_error: str = ""
    last_answer: float = 0.0
    rests_until: float = 0.0

    @property
    def busy_with(self) -> int:
        return self.in_flight["clip"] + self.in_flight["other"]

    @property
    def rate(self) -> float:
        """Answers a second while it has work; 0 before there were two."""
        return 1 / self.gap if self.gap else 0.0

    @property
    def expected(self) -> float:
        """Seconds until one more request would be answered, by Little's law for a server that has its full load.

        With less it would not be faster, only emptier. 0 while nothing is known of it.
        """
        return max(self.busy_with + 1, self.pace.limit) * self.gap

    def has_room(self, lane: Lane) -> bool:
        if self.state is not State.SERVING or self.busy_with >= self.pace.limit or time.monotonic() < self.rests_until:
            return False
        return lane == "other" or self.in_flight["clip"] < self.clip_ceiling

    def serve(self, by_reference: bool) -> None:
        """It was examined, or is back: it has just answered."""
        self.state, self.by_reference, self.failures, self.rests_until = State.SERVING, by_reference, 0, 0.0
        self.last_answer = time.monotonic()
        self.pace, self.load = first_pace(self.ceiling), None

    def succeeded(self, seconds: float, tokens: int) -> None:
        now = time.monotonic()
        self.latency += (seconds - self.latency) * (_LATENCY_WEIGHT if self.latency else 1.0)
        if not self.idle:
            self.gap += (now - self.last_answer - self.gap) * (_GAP_WEIGHT if self.gap else 1.0)
        self.idle = self.busy_with <= 1  # the gap to the next answer would count the time it had nothing to do
        self.failures, self.last_answer = 0, now
        self.answered += 1
        self.tokens += tokens

    def failed(self, error: Transient) -> None:
        """What a failure says about the server: it may be gone, ill, or only have too much to do."""
        self.failures += 1
        self.last_error = error.message
        if isinstance(error, Busy):
            self.pace = Pace(max(1, int(0.7 * min(self.pace.limit, self.busy_with))), False)
            # One 503 of a proxy is chance; a server that asks for time, or says it twice, gets it.
            asked = error.retry_after_s or (_REST_SECONDS * 2**self.failures if self.failures > 1 else 0.0)
            self.rests_until = time.monotonic() + min(_REST_LIMIT, asked)
        elif isinstance(error, Unreachable) or self.failures >= _ILL_AFTER:
            self.eject()

    def eject(self) -> None:
        if self.state is State.SERVING:
            self.state, self.pace = State.AWAY, Pace(0)

    @property
    def trusted(self) -> bool:
        """Whether a failure now is more likely the row's fault than the server's."""
        return self.failures <= _ILL_AFTER


def blames_row(error: Transient) -> bool:
    """Failures that the row itself may cause, on any server."""
    return isinstance(error, ServerFailed | ServerLost | BadOutput)
