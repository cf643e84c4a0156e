"""Annotates some shards in processes that are killed -9 at random moments, and counts what that cost.

The processes are forked from one that has the engine loaded, so that a hundred kills take minutes.
"""

from __future__ import annotations

import multiprocessing
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import orjson

from schemas.recipe import Annotation
from tests.annotation.sides import text_sides
from tests.annotation.stand_in import StandIn, replicas
from tests.annotation.stand_in_server import Replica
from umer1_core.annotation.engine import annotate_shard
from umer1_core.pairs import Side
from umer1_core.store import Store

_WORKERS = 2
_LIMIT_SECONDS = 300.0


@dataclass(frozen=True)
class Cost:
    """`paid_twice`: requests for sides whose annotation was durable, in a journal or a shard, before a kill."""

    kills: int
    lost: int
    duplicated: int
    paid_twice: int
    repeated: int  # requests beyond one a side: what was in flight at the kills
    durable_at_kills: tuple[int, ...]


def kill_run(rows: int, kills: int, seed: int, shards: int = 8, longest_life_s: float = 1.2) -> Cost:
    """A run over `rows` sides that is killed `kills` times, each time after a random part of longest_life_s."""
    lives = random.Random(seed)
    texts = [f"side number {i}" for i in range(rows)]
    per_shard = -(-rows // shards)
    names = [f"{i:05d}" for i in range(shards)]
    # At most what the whole run takes without a kill is asked in the lives, so that all kills find it at work.
    in_flight = max(4, int(rows * 0.1 / (kills * longest_life_s / 2)))
    with tempfile.TemporaryDirectory() as folder, replicas(Replica(latency=0.1)) as server:
        store = Store(folder)
        for number, shard in enumerate(names):
            store = text_sides(Path(folder), texts[number * per_shard : (number + 1) * per_shard], shard)
        marks: list[tuple[set[str], int]] = []
        for _ in range(kills):
            if _live(folder, server, names, in_flight, lives.uniform(0.05, longest_life_s)):
                break
            marks.append((durable_sides(store), len(server.record())))
        assert _live(folder, server, names, in_flight, _LIMIT_SECONDS), "the run did not end"
        return _cost(store, server, marks)


def durable_sides(store: Store) -> set[str]:
    """The keys of all sides whose annotation would survive a crash now."""
    keys: set[str] = set()
    for entry in store.entries("annotations"):
        keys.update(store.read_shard("annotations", entry.shard, ["side_key"])["side_key"].to_pylist())
    for journal in sorted((Path(store.path) / "journal").glob("*.jsonl")):
        whole = (line for line in journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n"))
        keys.update(row["side_key"] for line in whole if (row := orjson.loads(line)["row"]))
    return keys


def _live(folder: str, server: StandIn, shards: list[str], in_flight: int, seconds: float) -> bool:
    """One process, killed after `seconds`; whether it had finished all shards by then."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.annotation.kills"])
    process = context.Process(target=_annotate, args=(folder, server.endpoints, shards, in_flight))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        return False
    assert process.exitcode == 0, f"the run failed with {process.exitcode}"
    return True


def _annotate(folder: str, endpoints: list[str], shards: list[str], in_flight: int) -> None:
    annotation = Annotation(model="stand-in", endpoints=endpoints, concurrency=in_flight)
    store = Store(folder)
    store.sweep()
    with ThreadPoolExecutor(_WORKERS) as pool:
        list(
            pool.map(
                lambda shard: annotate_shard(store, shard, annotation, endpoints, Path(folder) / "journal", "f"), shards
            )
        )


def _cost(store: Store, server: StandIn, marks: list[tuple[set[str], int]]) -> Cost:
    record = [Side(text).key for _, _, text in server.record()]
    wanted = store.read("sides", ["side_key"])["side_key"].to_pylist()
    rows = store.read("annotations", ["side_key"])["side_key"].to_pylist()
    # What is durable at one kill is durable at the next: each is held against the requests up to that.
    ends = [before for _, before in marks[1:]] + [len(record)]
    paid_twice = sum(
        key in durable for (durable, before), end in zip(marks, ends, strict=True) for key in record[before:end]
    )
    return Cost(
        kills=len(marks),
        lost=len(set(wanted) - set(rows)),
        duplicated=len(rows) - len(set(rows)),
        paid_twice=paid_twice,
        repeated=len(record) - len(set(record)),
        durable_at_kills=tuple(len(durable) for durable, _ in marks),
    )
