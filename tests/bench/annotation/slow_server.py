"""Eight servers, one of them ten times slower: the others must not wait for it, and it must still be used."""

import tempfile
from collections.abc import Iterator

from tests.annotation.stand_in import replicas
from tests.annotation.stand_in_server import Replica
from tests.bench.annotation import runs
from tests.bench.line import Line
from umer1_core.pairs import Side

_SLOTS, _LATENCY_S, _SLOWER, _ROWS = 32, 0.5, 10, 24_000


def lines() -> Iterator[Line]:
    fast = Replica(latency=_LATENCY_S, slots=_SLOTS)
    slow = Replica(latency=_SLOWER * _LATENCY_S, slots=_SLOTS)
    ideal = 7 * _SLOTS / fast.latency + _SLOTS / slow.latency
    with tempfile.TemporaryDirectory() as folder, replicas(*[fast] * 7, slow) as server:
        store = runs.write_sides(folder, [Side(f"side number {i}") for i in range(_ROWS)])
        ours = runs.ours(store, runs.settings(server.endpoints))
    name = "annotation: rows/s of 8 servers, one 10 times slower"
    yield Line(name, ours.rate, ideal, "rows/s", "sum of slots/latency", 0.97, True)
