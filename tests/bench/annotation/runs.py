"""Whole runs to measure: ours as the tasks make them, datatrove's in its own environment."""

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.recipe import Annotation
from tests.annotation.stand_in_answers import MODEL
from tests.bench import peers
from umer1_core.annotation.engine import annotate_shard, open_engine
from umer1_core.pairs import Side, side_record
from umer1_core.store import ShardEntry, Store
from umer1_core.template import annotation_text

PEERS_PYTHON = Path(".venv-peers/bin/python")
_WORKERS = 2


@dataclass(frozen=True)
class Measured:
    rows: int
    seconds: float
    cpu_s: float

    @property
    def rate(self) -> float:
        return self.rows / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of CPU a row, of all threads."""
        return 1e3 * self.cpu_s / self.rows


def settings(endpoints: list[str], **changes: object) -> Annotation:
    return Annotation.model_validate({"model": MODEL, "endpoints": endpoints} | changes)


def write_sides(folder: str, sides: list[Side], shard_rows: int = 8_192) -> Store:
    store = Store(folder)
    for start in range(0, len(sides), shard_rows):
        store.write_shard("sides", f"{start // shard_rows:05d}", map(_row, sides[start : start + shard_rows]))
    return store


def _row(side: Side) -> dict[str, Any]:
    return {"side_key": side.key, "source": "own/x", "modality": "image", "uses": 1} | side_record(side)


def annotate(
    store: Store, shards: list[str], annotation: Annotation, fingerprint: str = "f", patience_s: float = 5.0
) -> list[ShardEntry]:
    """As the tasks do it: one engine, two shards in progress."""
    journals = Path(store.path) / "journal"

    def one(shard: str) -> ShardEntry:
        return annotate_shard(store, shard, annotation, annotation.endpoints, journals, fingerprint, None, patience_s)

    with (
        open_engine(annotation, annotation.endpoints, journals / "live.json", patience_s),
        ThreadPoolExecutor(_WORKERS) as pool,
    ):
        return list(pool.map(one, shards))


def ours(store: Store, annotation: Annotation) -> Measured:
    """From the first connection to the last shard committed."""
    shards = [entry.shard for entry in store.entries("sides")]
    started, cpu = time.perf_counter(), time.process_time()
    entries = annotate(store, shards, annotation)
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    if errors := sum(entry.metrics["errors"] for entry in entries):
        raise RuntimeError(f"{errors} sides failed: the measurement is void")
    return Measured(sum(entry.rows for entry in entries), seconds, cpu_s)


def datatrove(folder: str, sides: list[Side], address: str, in_flight: int) -> Measured:
    """The same sides and prompts through datatrove's InferenceRunner, its checkpoint and cache on."""
    if not PEERS_PYTHON.exists():
        raise RuntimeError(f"There is no {PEERS_PYTHON}: `make bench` makes it.")
    rows = Path(folder) / "datatrove.jsonl"
    with open(rows, "w", encoding="utf-8") as file:
        for side in sides:
            image = side.media[0].uri if side.media else ""
            file.write(json.dumps({"id": side.key, "text": annotation_text(side.text), "image": image}) + "\n")
    runner = Path(peers.__file__).with_name("datatrove_runner.py")
    command = [str(PEERS_PYTHON), str(runner), address, str(in_flight), str(rows), f"{folder}/datatrove"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured = Measured(**json.loads(done.stdout))
    if measured.rows != len(sides):
        raise RuntimeError(f"datatrove finished {measured.rows} of {len(sides)} rows: the measurement is void")
    return measured
