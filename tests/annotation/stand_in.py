"""Runs stand-in servers (tests/annotation/stand_in_server.py) as processes that a test can kill and start again."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import orjson

from tests.annotation.stand_in_server import Replica


class StandIn:
    """One process with a port a replica. `addresses` stay the same through `kill` and `start`."""

    def __init__(self, replicas: list[Replica]) -> None:
        self.replicas = replicas
        self.start()

    def start(self) -> None:
        settings = orjson.dumps([asdict(replica) for replica in self.replicas]).decode()
        command = [sys.executable, "-m", "tests.annotation.stand_in_server", settings]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        ports = orjson.loads(self.process.stdout.readline())
        self.replicas = [replace(replica, port=port) for replica, port in zip(self.replicas, ports, strict=True)]

    def kill(self) -> None:
        """As by kill -9: every connection ends, and what the process had counted is gone."""
        self.process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def addresses(self) -> list[str]:
        return [f"http://127.0.0.1:{replica.port}" for replica in self.replicas]

    @property
    def endpoints(self) -> list[str]:
        return [f"{address}/v1" for address in self.addresses]

    def stats(self) -> dict[str, Any]:
        return read_stats(self.addresses[0])

    def record(self) -> list[tuple[float, int, str]]:
        """Every chat request in the order of arrival: time.monotonic(), the replica's number, the side's text."""
        with urllib.request.urlopen(f"{self.addresses[0]}/record", timeout=30) as response:
            return [(when, replica, text) for when, replica, text in orjson.loads(response.read())]


@contextlib.contextmanager
def replicas(*settings: Replica) -> Iterator[StandIn]:
    """A running stand-in with these replicas, ended with the block."""
    server = StandIn(list(settings))
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def stand_in(latency: float = 0.0, busy_every: int = 0, refuse_word: str = "", drop_word: str = "") -> Iterator[str]:
    """The address of a running stand-in with one replica."""
    one = Replica(latency=latency, busy_every=busy_every, refuse_word=refuse_word, drop_word=drop_word)
    with replicas(one) as server:
        yield server.addresses[0]


def read_stats(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{address}/stats", timeout=30) as response:
        return dict(orjson.loads(response.read()))
