"""Full size: starting again on 3.5 M finished rows, and the memory of a run over 10 M.

Finished shards are made quickly: small rows, and for the 10 M one shard under many names. Each measurement has a
process of its own; memory is its highest resident set (VmHWM).
"""

import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.tables import ANNOTATIONS
from tests.annotation.stand_in import replicas
from tests.annotation.stand_in_server import Replica
from tests.bench.annotation import runs
from tests.bench.line import Line
from umer1_core.annotation.plan import open_parent, pending_shards
from umer1_core.pairs import Side
from umer1_core.store import Store

_SHARD_ROWS = 8_192
_FINISHED_SHARDS = 428  # 3.5 M rows
_LARGE_SHARDS, _LARGE_PENDING = 1_221, 12  # 10 M rows
_COMPLETION_CHARACTERS = 4_000  # as GLM-4.1V writes


def lines() -> Iterator[Line]:
    goal = "the goal"
    with tempfile.TemporaryDirectory() as folder:
        _finished(Store(folder), _FINISHED_SHARDS)
        seconds, peak = _alone(_resume, folder)
        yield Line("annotation: start again on 3.5 M finished rows", seconds, 10, "s", goal, 1.0, False)
        yield Line("annotation: memory of that start", peak, 500, "MB", goal, 1.0, False)
        seconds, peak = _alone(_take_over, folder)
        yield Line("annotation: start a version that takes over 3.5 M rows", seconds, 10, "s", goal, 1.0, False)
        yield Line("annotation: memory of that start, too", peak, 500, "MB", goal, 1.0, False)
    with (
        tempfile.TemporaryDirectory() as folder,
        replicas(Replica(latency=0.3, completion_chars=_COMPLETION_CHARACTERS)) as server,
    ):
        _large(folder)
        at_20k, peak = _alone(_annotate_rest, folder, server.endpoints)
    yield Line("annotation: memory over 10 M rows, the last 98,304 asked for", peak, 1_000, "MB", goal, 1.0, False)
    yield Line("annotation: memory after 98,304 rows", peak, at_20k, "MB", "after 20,000 rows", 1.15, False)


def _alone(function: Callable[..., tuple[float, float]], *arguments: Any) -> tuple[float, float]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _resume(folder: str) -> tuple[float, float]:
    """What a start does before it sends anything: which shards are to do (tasks/annotation.py, `plan`)."""
    started = time.perf_counter()
    store = Store(folder)
    pending = pending_shards(store, {entry.shard: "f" for entry in store.entries("annotations")} | {"new": "f"})
    if pending != ["new"]:
        raise RuntimeError(f"{len(pending)} shards are thought to be pending")
    return time.perf_counter() - started, _peak_mb()


def _take_over(folder: str) -> tuple[float, float]:
    started = time.perf_counter()
    known = len(open_parent([folder], "a", False))
    if known != _FINISHED_SHARDS * _SHARD_ROWS:
        raise RuntimeError(f"{known} rows are thought to be there")
    return time.perf_counter() - started, _peak_mb()


def _annotate_rest(folder: str, endpoints: list[str]) -> tuple[float, float]:
    """Peak memory after about 20,000 rows, and after all that were left."""
    store = Store(folder)
    shards = pending_shards(store, {entry.shard: "f" for entry in store.entries("sides")})
    if len(shards) != _LARGE_PENDING:
        raise RuntimeError(f"{len(shards)} shards are thought to be pending")
    annotation = runs.settings(endpoints, concurrency=512)
    runs.annotate(store, shards[:3], annotation)
    after_first = _peak_mb()
    runs.annotate(store, shards[3:], annotation)
    return after_first, _peak_mb()


def _finished(store: Store, shards: int) -> None:
    """An annotations table of shards with keys of their own."""
    random_bytes = random.Random(0).randbytes
    constant = {"source": "own/x", "completion": "<think>a</think><answer>b</answer>", "finish_reason": "stop"}
    constant |= {"sample": 0, "prompt_tokens": 10, "completion_tokens": 20, "attempts": 1, "round": 0}
    constant |= {"seconds": 1.0, "annotator": "a", "reason": "", "error": ""}
    columns = {
        name: pa.repeat(pa.scalar(value, ANNOTATIONS.field(name).type), _SHARD_ROWS) for name, value in constant.items()
    }
    for number in range(shards):
        digits = random_bytes(16 * _SHARD_ROWS).hex()
        columns["side_key"] = pa.array([digits[i : i + 32] for i in range(0, len(digits), 32)])
        table = pa.table({name: columns[name] for name in ANNOTATIONS.names})
        store.write_shard("annotations", f"{number:05d}", table, "f")


def _large(folder: str) -> None:
    """Sides of 10 M rows, annotated but for the last shards; the finished ones are links to one."""
    store = Store(folder)
    _finished(store, 1)
    pending = range(_LARGE_SHARDS - _LARGE_PENDING, _LARGE_SHARDS)
    sides = [Side(f"side number {i}") for i in range(_LARGE_PENDING * _SHARD_ROWS)]
    written = runs.write_sides(folder, sides, _SHARD_ROWS).entries("sides")
    for place, number in enumerate(reversed(pending)):
        source = len(written) - 1 - place
        os.rename(store.at(f"sides/{source:05d}.parquet"), store.at(f"sides/{number:05d}.parquet"))
        store.write_json(f"entries/sides/{number:05d}.json", asdict(replace(written[source], shard=f"{number:05d}")))
    for table, entry in (("sides", written[0]), ("annotations", store.entries("annotations")[0])):
        original = store.at(f"{table}/{pending[0]:05d}.parquet" if table == "sides" else f"{table}/00000.parquet")
        for number in range(pending[0]):
            target = store.at(f"{table}/{number:05d}.parquet")
            if not os.path.exists(target):
                os.link(original, target)
            store.write_json(f"entries/{table}/{number:05d}.json", asdict(replace(entry, shard=f"{number:05d}")))
