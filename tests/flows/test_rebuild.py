"""A changed recipe makes a new version that asks, reads and writes only what the change needs."""

import os
from pathlib import Path

import orjson
import pytest

from flows.build_cold_start import build_cold_start
from schemas.recipe import Recipe
from tests.annotation.stand_in import read_stats, stand_in
from umer1_core.publishing.diff import diff
from umer1_core.recipes import MINIATURE_FOLDER, parse_recipe
from umer1_core.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def recipe(folder: Path, address: str, **filters: object) -> Recipe:
    return parse_recipe({
        "name": "x", "output": str(folder / "out"),
        "sources": [{"kind": "own", "name": "animals", "files": [str(folder / "pairs.jsonl")]}],
        "annotation": {"model": "stand-in", "endpoints": [f"{address}/v1"], "shard_rows": 60},
        "filters": {"tokenizer": str(MINIATURE_FOLDER / "teacher"), **filters}, "training": {"enabled": False},
        "publishing": {"shard_rows": 40, "rl_pairs": 8},
        "validation": {"min_kept_fraction": 0.0, "min_shard_kept_fraction": 0.0, "max_kept_drift": 1.0},
    })  # fmt: skip


def write_pairs(folder: Path, count: int = 200) -> None:
    """Pair 7 has a long text, which the stand-in repeats in its summary."""
    texts = [
        f"animal {n} " + (" ".join(f"part{k} of its name" for k in range(12)) if n == 7 else "") for n in range(count)
    ]
    rows = [{"id": str(n), "query": {"text": text}, "target": {"text": f"it {n}"}} for n, text in enumerate(texts)]
    (folder / "pairs.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


def shared(store: Store, table: str) -> list[bool]:
    return [bool(entry.shared_with) for entry in store.entries(table)]


def test_a_changed_threshold_asks_nothing_and_rewrites_only_what_it_changed(tmp_path):
    write_pairs(tmp_path)
    with stand_in() as address:
        first = Store(build_cold_start(recipe(tmp_path, address)))
        sent = read_stats(address)["requests"]
        second = Store(build_cold_start(recipe(tmp_path, address, max_summary_chars=100)))
        assert read_stats(address)["requests"] == sent
    assert (first.root.rpartition("/")[2], second.root.rpartition("/")[2]) == ("v1", "v2")
    for table in ("pairs", "rejections", "sides", "annotations"):
        assert shared(second, table) and all(shared(second, table)), table
        for ours, theirs in zip(second.files(table), first.files(table), strict=True):
            assert os.path.samefile(ours, theirs)
    assert shared(second, "cold_start").count(False) == shared(second, "verdicts").count(False) == 1
    assert sum(entry.rows for entry in second.entries("cold_start")) == 199
    found = diff(first, second)
    assert (found.related, found.total("newly_dropped"), found.total("kept_in_both")) == (200, 1, 199)
    assert found.sources[0].source == "own/animals" and found.examples[0].kind == "newly_dropped"
    assert [change.field for change in found.settings] == ["filters.max_summary_chars"]


def test_another_row_reads_its_source_again_and_asks_only_for_its_sides(tmp_path):
    write_pairs(tmp_path)
    with stand_in() as address:
        build_cold_start(recipe(tmp_path, address))
        sent = read_stats(address)["requests"]
        preflight = sent - 400
        write_pairs(tmp_path, 201)
        second = Store(build_cold_start(recipe(tmp_path, address, max_reasoning_tokens=8_000)))
        assert read_stats(address)["requests"] == sent + preflight + 2
    assert sum(entry.rows for entry in second.entries("pairs")) == 201
