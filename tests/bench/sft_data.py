"""Loading against the training step it feeds, and the index of a table as large as the paper's.

Rows are of the miniature's kinds (two thirds pictures, a sixth clips of eight frames, a sixth text alone), read from
Parquet, opened, resized and tokenised with nothing kept from before; the step is the two-pass step on the same rows of
the miniature's student. Both are CPU seconds of one thread.

The index is of 1.46 M rows in 73 shards (sources, a held-out slice of 1,024, two epochs of batches), against the row
tuples of a list, which took 120 bytes a row.
"""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers.utils.logging import disable_progress_bar

from schemas.tables import COLD_START
from tests.bench.line import Line, median_cpu_seconds
from tests.student import QUERY, clip, cold_start_row, picture, small_student
from umer1_core.backbone.collate import Encoder
from umer1_core.pairs import Pair, Side
from umer1_core.sft.data.loader import Loader, LoaderSettings
from umer1_core.sft.parallel.with_torch import OneProcess
from umer1_core.sft.step.module import SFTModule
from umer1_core.sft.step.two_pass import StepSettings, sft_step
from umer1_core.store import Store
from umer1_core.template import training_response
from umer1_core.training.data.batches import Batches
from umer1_core.training.data.cold_start import ColdStart, PairRows
from umer1_core.training.ranks import join_ranks

_PAIRS, _SHARDS, _SHARD_ROWS = 96, 73, 20_000
_COLOURS = ("red", "green", "blue", "black")
_TUPLE_BYTES = 120


def lines() -> Iterator[Line]:
    torch.set_num_threads(1)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        yield _loading(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        yield from _index(Path(folder))


def _loading(folder: Path) -> Line:
    store = Store(str(folder / "data"))
    store.write_shard("cold_start", "00000", [_row(folder, number) for number in range(_PAIRS)])
    pairs = _loaded(store)
    module = SFTModule(small_student(), reuse=True)
    parallel = OneProcess(join_ranks(), module, lambda module: [])
    settings, temperature = StepSettings(pack_tokens=2_048, two_pass=True), torch.tensor(0.02)

    def step() -> None:
        module.zero_grad(set_to_none=True)
        sft_step(parallel, small_student().ids, pairs, settings, temperature)

    loading = median_cpu_seconds(lambda: _loaded(store), runs=3)
    stepping = median_cpu_seconds(step, runs=3)
    return Line("sft: rows loaded", _PAIRS / loading, _PAIRS / stepping, "rows/CPU s", "rows trained on", 3, True)


def _row(folder: Path, number: int) -> dict[str, object]:
    colour, name = _COLOURS[number % 4], f"{number}"
    media = {4: (clip(folder / name, colour),), 5: ()}.get(number % 6, (picture(folder / name, colour),))
    target = Side(f"A {colour} disc that stands at place {number}.")
    record = cold_start_row(Pair(name, "bench", "image", Side(QUERY, media), target))
    reasoning = f"There is one disc in the picture. It is {colour}. It stands at place {number}. " * 3
    return record | {
        "query_response": training_response(reasoning, target.text),
        "target_response": training_response(f"The text names a {colour} disc. {target.text}", target.text),
    }


def _loaded(store: Store) -> list[PairRows]:
    data = ColdStart(store)
    batches = Batches(data.source_codes, data.trainable, _PAIRS, _PAIRS, 0)
    with Loader(data, batches, Encoder(small_student(), 1_024), 0, 1, LoaderSettings(workers=0)) as loader:
        (step,) = loader
    assert len(step.pairs) == _PAIRS
    return step.pairs


def _index(folder: Path) -> Iterator[Line]:
    store = Store(str(folder))
    for shard in range(_SHARDS):
        _write_narrow(store, shard)
    rows = _SHARDS * _SHARD_ROWS
    started = time.process_time()
    data = ColdStart(store, held_out=1_024)
    Batches(data.source_codes, data.trainable, 1_024, 512, 0).batch(0)
    seconds = time.process_time() - started
    tracemalloc.start()
    data = ColdStart(store, held_out=1_024)
    batches = Batches(data.source_codes, data.trainable, 1_024, 512, 0)
    batches.batch(0), batches.batch(batches.steps_per_epoch)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    yield Line("sft: index of 1.46 M rows", seconds, 60.0, "CPU s", "a minute at the start", 1, False)
    yield Line("sft: index kept in memory", kept / rows, _TUPLE_BYTES, "bytes/row", "a tuple a row", 0.2, False)


def _write_narrow(store: Store, shard: int) -> None:
    """A shard with what the index reads; the other columns are empty."""
    random = np.random.default_rng(shard)
    hashes = [f"{a:016x}{b:016x}" for a, b in random.integers(0, 2**63, (_SHARD_ROWS, 2))]
    columns = {
        "pair_id": pa.array(hashes),
        "query_key": pa.array(hashes[::-1]),
        "source": pa.array([f"mmeb/source-{code}" for code in random.integers(0, 50, _SHARD_ROWS)]),
    }
    empty = [columns.get(f.name, pa.nulls(_SHARD_ROWS, f.type)) for f in COLD_START]
    store.write_shard("cold_start", f"{shard:05d}", pa.table(empty, schema=COLD_START))
