"""The data stages against the plain way: a loop over periods, and dictionaries of rows for distinct sides."""

import tempfile
from collections.abc import Iterator
from itertools import count

import numpy as np

from tests.bench.line import Line, median_cpu_seconds
from umer1_core.filtering.repetition import strongest_run
from umer1_core.pairs import Pair, Side, pair_from_record, pair_id, pair_record, side_record
from umer1_core.sampling.sample import index_sides
from umer1_core.store import Store

_TOKENS, _PAIRS = 4_096, 20_000


def lines() -> Iterator[Line]:
    ids = np.random.default_rng(0).integers(0, 50_000, _TOKENS)
    ids[-600:] = np.tile(ids[:12], 50)
    ours = median_cpu_seconds(lambda: strongest_run(ids, 4))
    plain = median_cpu_seconds(lambda: _loop_over_periods(ids.tolist()), runs=1)
    name = f"data: strongest repetition in {_TOKENS:,} tokens"
    yield Line(name, 1e3 * ours, 1e3 * plain, "ms", "loop over periods", 0.05, False)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.write_shard("pairs", "a-00000", [pair_record(pair) for pair in _pairs()])
        # Another fingerprint each time: a finished index is not made again.
        times = count()
        ours = median_cpu_seconds(lambda: index_sides(store, 8_192, 0, str(next(times))), runs=3)
        plain = median_cpu_seconds(lambda: _dictionary(store), runs=3)
    yield Line(f"data: distinct sides of {_PAIRS:,} pairs", ours, plain, "CPU s", "dictionary of rows", 1.0, False)


def _loop_over_periods(ids: list[int]) -> tuple[int, int]:
    best = (0, 0)
    for period in range(1, len(ids) // 4 + 1):
        run = 0
        for i in range(period, len(ids)):
            run = run + 1 if ids[i] == ids[i - period] else 0
            if (run + period) / period >= 4 and run + period > best[1]:
                best = (period, run + period)
    return best


def _pairs() -> Iterator[Pair]:
    for i in range(_PAIRS):
        query, target = Side(f"query number {i} " * 8), Side(f"target {i % 5_000} " * 8)
        yield Pair(pair_id("bench", str(i)), "bench", "image", query, target)


def _dictionary(store: Store) -> None:
    """Distinct sides in a dictionary, shuffled and written as the table: the same result by hand."""
    found: dict[str, dict] = {}
    for record in store.iterate("pairs"):
        pair = pair_from_record(record)
        for side in (pair.query, pair.target):
            row = found.setdefault(
                side.key, side_record(side) | {"side_key": side.key, "source": "bench", "modality": "image", "uses": 0}
            )
            row["uses"] += 1
    rows = sorted(found.values(), key=lambda row: row["side_key"])
    for start in range(0, len(rows), 8_192):
        store.write_shard("sides", f"plain-{start:05d}", rows[start : start + 8_192])
