"""What the requests of a run bought, while it is at work: counts by source and outcome, rates, who is being waited for.

The tables are the truth afterwards; this is the view of a live run, written beside the journals for `umer1 status` and
offered to Prometheus.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from umer1_core.annotation.fleet import Fleet
from umer1_core.annotation.replica import Replica
from umer1_core.errors import safe_url

LIVE_FILE = "live.json"
_WINDOW = 15  # snapshots over which rates are taken
_STALL_SECONDS, _STALL_FACTOR = 60.0, 10.0
_NAMED = 5


class Ledger:
    """Counts of one engine; `add` once for every answered request."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.prompt_tokens: Counter[tuple[str, str]] = Counter()
        self.completion_tokens: Counter[tuple[str, str]] = Counter()
        self.settled = 0
        self.seconds: deque[float] = deque(maxlen=2_000)
        self.last_answer = time.monotonic()
        self._marks: dict[str, deque[tuple[float, int, int]]] = defaultdict(lambda: deque(maxlen=_WINDOW))

    def add(self, attempt: dict[str, Any], settled: bool) -> None:
        """attempt: a row of the table `attempts`; settled: it was the last that its side needs."""
        self.settled += settled
        key = (attempt["source"], attempt["outcome"])
        self.requests[key] += 1
        self.prompt_tokens[key] += attempt["prompt_tokens"]
        self.completion_tokens[key] += attempt["completion_tokens"]
        if attempt["outcome"] != "transient":
            self.last_answer = time.monotonic()
            self.seconds.append(attempt["seconds"])

    def stalled(self, fleet: Fleet) -> list[str]:
        """The longest waited-for requests, when nothing has been answered for far longer than answers take."""
        if not fleet.sent and not fleet.queued:
            self.last_answer = time.monotonic()
            return []
        usual = statistics.quantiles(self.seconds, n=100)[-1] if len(self.seconds) > 1 else 0.0
        quiet = time.monotonic() - self.last_answer
        if quiet < max(_STALL_SECONDS, _STALL_FACTOR * usual):
            return []
        if not fleet.sent:
            return [f"a server for {fleet.queued:,} sides"]
        oldest = sorted(fleet.sent.items(), key=lambda item: item[1][1])[:_NAMED]
        return [
            f"{work.name} at {safe_url(replica.base_url)} for {time.monotonic() - started:.0f} s"
            for work, (replica, started) in oldest
        ]

    def snapshot(self, fleet: Fleet, stalled: list[str]) -> dict[str, Any]:
        """The state as JSON: totals, rates over the last half minute, and every server."""
        replicas = [self._replica(replica) for replica in fleet.roster.replicas.values()]
        return {
            "time": time.time(),
            "pid": os.getpid(),
            "in_flight": sum(r["in_flight"] for r in replicas),
            "queued": fleet.queued,
            "rows_per_s": self._rate("", self.settled, 0)[0],
            "tokens_per_s": sum(r["tokens_per_s"] for r in replicas),
            "outcomes": _by_outcome(self.requests),
            "completion_tokens": _by_outcome(self.completion_tokens),
            "replicas": replicas,
            "stalled": stalled,
        }

    def _replica(self, replica: Replica) -> dict[str, Any]:
        requests, tokens = self._rate(replica.base_url, replica.answered, replica.tokens)
        load = replica.load
        return {
            "replica": safe_url(replica.base_url),
            "state": replica.state.value,
            "in_flight": replica.busy_with,
            "limit": replica.pace.limit,
            "waiting": load.waiting if load else None,
            "kv_usage": round(load.kv_usage, 3) if load else None,
            "latency_s": round(replica.latency, 3),
            "answered": replica.answered,
            "requests_per_s": requests,
            "tokens_per_s": tokens,
            "last_error": replica.last_error,
        }

    def _rate(self, what: str, count: int, tokens: int) -> tuple[float, float]:
        marks = self._marks[what]
        marks.append((time.monotonic(), count, tokens))
        seconds = marks[-1][0] - marks[0][0]
        if seconds <= 0:
            return 0.0, 0.0
        return round((count - marks[0][1]) / seconds, 2), round((tokens - marks[0][2]) / seconds, 1)


class LedgerCollector(Collector):
    """The ledger as Prometheus metrics, read when it is asked for."""

    def __init__(self, ledger: Ledger, fleet: Fleet) -> None:
        self.ledger, self.fleet = ledger, fleet

    def collect(self) -> Iterator[Metric]:
        labels = ["source", "outcome"]
        counted = {
            "requests": ("Requests answered", self.ledger.requests),
            "prompt_tokens": ("Prompt tokens of answered requests", self.ledger.prompt_tokens),
            "completion_tokens": ("Tokens generated", self.ledger.completion_tokens),
        }
        for name, (text, values) in counted.items():
            family = CounterMetricFamily(f"umer1_annotation_{name}", text, labels=labels)
            for key, value in dict(values).items():
                family.add_metric(list(key), value)
            yield family
        yield GaugeMetricFamily("umer1_annotation_queued", "Sides waiting for a server", value=self.fleet.queued)
        yield from self._of_replicas()

    def _of_replicas(self) -> Iterator[Metric]:
        replicas = list(self.fleet.roster.replicas.values())
        for name, text, values in (
            ("in_flight", "Requests a server has", [r.busy_with for r in replicas]),
            ("limit", "Requests a server may have", [r.pace.limit for r in replicas]),
            ("latency_seconds", "Smoothed seconds a request", [r.latency for r in replicas]),
            ("serving", "1 where a server is given work", [float(r.state == "serving") for r in replicas]),
        ):
            family = GaugeMetricFamily(f"umer1_annotation_replica_{name}", text, labels=["replica"])
            for replica, value in zip(replicas, values, strict=True):
                family.add_metric([safe_url(replica.base_url)], value)
            yield family


def write_live(path: Path, snapshot: dict[str, Any]) -> None:
    """Replace the file, so that a reader never sees half of it. Durability is not wanted of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    temporary.write_bytes(orjson.dumps(snapshot))
    temporary.replace(path)


def _by_outcome(counts: Counter[tuple[str, str]]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for (_, outcome), value in counts.items():
        totals[outcome] += value
    return dict(sorted(totals.items()))
