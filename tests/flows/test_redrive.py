"""A redrive on a real Prefect server: only the dead letters are asked again, all of them or those of one reason."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.build_cold_start import build_cold_start
from flows.reannotate import reannotate
from schemas.recipe import Recipe
from tests.annotation.stand_in import stand_in
from umer1_core.annotation.dead_letters import dead_letters
from umer1_core.recipes import MINIATURE_FOLDER, parse_recipe
from umer1_core.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def recipe(folder: Path, address: str, rows: int = 40) -> Recipe:
    """Text rows; of their queries every eighth is about a mouse and every tenth about a whale."""
    (folder / "Own").mkdir(exist_ok=True)
    animals = ["mouse" if n % 8 == 0 else "whale" if n % 10 == 5 else "horse" for n in range(rows)]
    content = [
        {"qry": f"{animal} {n}", "qry_image_path": "", "pos_text": f"answer {n}", "pos_image_path": ""}
        for n, animal in enumerate(animals)
    ]
    pq.write_table(pa.Table.from_pylist(content), folder / "Own" / "original-00000-of-00001.parquet")
    return parse_recipe({
        "name": "x", "output": str(folder / "out"), "sources": [{"kind": "mmeb", "root": str(folder)}],
        "annotation": {"model": "stand-in", "endpoints": [f"{address}/v1"], "deadline_s": 5, "shard_rows": 30},
        "filters": {"tokenizer": str(MINIATURE_FOLDER / "teacher")}, "training": {"enabled": False},
        "validation": {"max_error_fraction": 1.0, "min_kept_fraction": 0.0, "min_pairs": 1},
    })  # fmt: skip


def completions(root: str) -> dict[str, str]:
    return {row["side_key"]: row["completion"] for row in Store(root).iterate("annotations")}


def asked(root: str) -> int:
    return sum(entry.metrics["requests"] for entry in Store(root).entries("annotations"))


def reasons(root: str) -> dict[str, int]:
    return {each.reason: each.count for each in dead_letters(Store(root))}


def test_dead_letters_are_redriven_by_reason_then_all_and_everything_else_is_taken_over(tmp_path):
    with stand_in(refuse_word="mouse", drop_word="whale") as address:
        first = build_cold_start(recipe(tmp_path, address))
    failed = reasons(first)
    mice, whales = sorted(failed.values(), reverse=True)
    assert (mice, whales) == (5, 4) and len(failed) == 2
    reason = next(name for name, count in failed.items() if count == mice)
    with stand_in() as address:
        mended = recipe(tmp_path, address)
        second = reannotate(mended, mode="redrive", reason=reason)
        assert asked(second) == mice and sum(reasons(second).values()) == whales
        third = reannotate(mended, mode="redrive")
        assert asked(third) == whales and reasons(third) == {}
        assert reannotate(mended, mode="redrive") == ""
    before, after = completions(first), completions(third)
    assert before.keys() == after.keys() and all(after.values())
    assert Counter(before[key] == after[key] for key in before) == {
        True: len(before) - mice - whales,
        False: mice + whales,
    }
