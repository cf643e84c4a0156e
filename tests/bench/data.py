"""The data stages: the filters, and distinct sides against dictionaries of rows."""

import tempfile
from collections.abc import Iterator
from itertools import count

from tests.bench import filters, media, publishing, validation
from tests.bench.line import Line, median_cpu_seconds
from umer1_core.pairs import Pair, Side, pair_from_record, pair_id, pair_record, side_record
from umer1_core.sampling.sample import index_sides
from umer1_core.store import Store

_PAIRS = 20_000


def lines() -> Iterator[Line]:
    yield from filters.lines()
    yield from media.lines()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.write_shard("pairs", "a-00000", [pair_record(pair) for pair in _pairs()])
        # Another fingerprint each time: a finished index is not made again.
        times = count()
        ours = median_cpu_seconds(lambda: index_sides(store, 8_192, 0, str(next(times))), runs=3)
        plain = median_cpu_seconds(lambda: _dictionary(store), runs=3)
    yield Line(f"data: distinct sides of {_PAIRS:,} pairs", ours, plain, "CPU s", "dictionary of rows", 1.0, False)
    yield from validation.lines()
    yield from publishing.lines()


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
