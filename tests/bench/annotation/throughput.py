"""Durable rows/s and CPU a row beside datatrove's InferenceRunner 0.10.1, one server with 1 s mean latency.

Both write every answer durably before they count it: datatrove a checkpoint line and an SQLite row each, we a journal
that is fsynced in groups, then Parquet.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.annotation.stand_in import replicas
from tests.annotation.stand_in_server import Replica
from tests.bench.annotation import runs
from tests.bench.annotation.runs import Measured
from tests.bench.line import Line
from umer1_core.media import describe
from umer1_core.pairs import Media, Side

_PEER = "datatrove, checkpoint and cache"
_LATENCY_S = 1.0
# Shorter runs for the peer, which is bound by its CPU: rates are compared.
_ROWS = {512: (8_192, 4_096), 2_048: (49_152, 6_000)}
_PICTURES, _PICTURE_ROWS, _PICTURES_IN_FLIGHT = 40, 1_000, 256


def lines() -> Iterator[Line]:
    for in_flight, (rows, peer_rows) in _ROWS.items():
        with replicas(Replica(latency=_LATENCY_S)) as server:
            ours, peer = _both(_texts(rows), server.addresses[0], in_flight, peer_rows)
        # With 1 s of latency nobody gets more than in_flight rows a second: at 512 six times the peer is out of reach.
        name = f"annotation: durable rows/s, {in_flight:,} in flight"
        yield Line(name, ours.rate, peer.rate, "rows/s", _PEER, 6.0, True)
        possible = in_flight / _LATENCY_S
        yield Line(f"{name}, of what can be", ours.rate, possible, "rows/s", "in flight / latency", 0.8, True)
        yield Line(f"annotation: CPU a row, {in_flight:,} in flight", ours.cpu_ms, peer.cpu_ms, "ms", _PEER, 0.5, False)
    yield Line("annotation: durable rows/s of one process", ours.rate, 1_000, "rows/s", "the goal", 1.0, True)
    yield Line("annotation: CPU a row", ours.cpu_ms, 1.0, "ms", "the goal", 1.0, False)
    with tempfile.TemporaryDirectory() as folder, replicas(Replica(latency=_LATENCY_S)) as server:
        ours, peer = _both(_pictures(Path(folder)), server.addresses[0], _PICTURES_IN_FLIGHT, _PICTURE_ROWS)
    yield Line("annotation: CPU a row, 300 kB JPEG by data URL", ours.cpu_ms, peer.cpu_ms, "ms", _PEER, 0.5, False)


def _both(sides: list[Side], address: str, in_flight: int, peer_rows: int) -> tuple[Measured, Measured]:
    with tempfile.TemporaryDirectory() as folder:
        store = runs.write_sides(folder, sides)
        ours = runs.ours(store, runs.settings([f"{address}/v1"], concurrency=in_flight, media="inline"))
        return ours, runs.datatrove(folder, sides[:peer_rows], address, in_flight)


def _texts(rows: int) -> list[Side]:
    return [Side(f"side number {i}") for i in range(rows)]


def _pictures(folder: Path) -> list[Side]:
    """Noise of about 300 kB a JPEG; each picture stands in several sides."""
    noise = np.random.default_rng(0)
    media = []
    for i in range(_PICTURES):
        path = folder / f"{i}.jpg"
        Image.fromarray(noise.integers(0, 256, (640, 560, 3), dtype=np.uint8)).save(path, quality=82)
        media.append(describe(Media("image", str(path))))
    return [Side(f"side number {i}", (media[i % _PICTURES],)) for i in range(_PICTURE_ROWS)]
