"""A pilot shows what the rows are like and says what the whole would cost, with the doubt that is in it."""

import io
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from schemas.recipe import Recipe
from tests.annotation.stand_in import stand_in
from umer1_core.pilot.report import Measured, loop_cost, notes
from umer1_core.pilot.run import run_pilot
from umer1_core.pilot.show import counted, lasting, print_pilot
from umer1_core.recipes import MINIATURE_FOLDER, parse_recipe
from umer1_core.store import Store

ROWS, PILOT, ANSWER_TOKENS = 120, 40, 20
FAST = Measured(seconds=10.0, servers=1, gpus=1, room=8, embedded=False)


def recipe(folder: Path, endpoint: str) -> Recipe:
    """Two subsets of text rows: every query once, three targets again and again."""
    for subset in ("A", "B"):
        (folder / subset).mkdir(parents=True, exist_ok=True)
        rows = [
            {"qry": f"{subset} asks {n}", "qry_image_path": "", "pos_text": f"answer {n % 3}", "pos_image_path": ""}
            for n in range(ROWS)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / subset / "original-00000-of-00001.parquet")
    return parse_recipe({
        "name": "x", "output": str(folder / "out"), "sources": [{"kind": "mmeb", "root": str(folder)}],
        "annotation": {"model": "stand-in", "endpoints": [endpoint], "concurrency": 8},
        "filters": {"tokenizer": str(MINIATURE_FOLDER / "teacher")},
    })  # fmt: skip


@pytest.fixture(scope="module")
def piloted(tmp_path_factory) -> tuple[Recipe, dict, list[tuple[str, int, int]]]:
    shown: list[tuple[str, int, int]] = []
    with stand_in(latency=0.2) as address:
        chosen = recipe(tmp_path_factory.mktemp("pilot"), f"{address}/v1")
        report = run_pilot(chosen, PILOT, 4, lambda *now: shown.append(now), lambda line: None)
    return chosen, report, shown


def test_the_rows_of_a_pilot_are_spread_over_the_sources(piloted):
    _, report, _ = piloted
    assert [row["source"] for row in report["sources"]] == ["mmeb/A", "mmeb/B"]
    assert report["pilot"]["pairs"] == PILOT / 2 and PILOT / 2 < report["pilot"]["sides"] <= PILOT / 2 + 3
    assert all(row["pilot_sides"] >= PILOT / 4 for row in report["sources"])


def test_the_whole_is_counted_over_all_rows_and_equal_sides_count_once(piloted):
    _, report, _ = piloted
    projection = report["projection"]
    assert projection["pairs"] == 2 * ROWS and projection["sides"] == 2 * ROWS + 3 == projection["completions"]
    assert [(row["rows_read"], row["pairs"]) for row in report["sources"]] == [(ROWS, ROWS)] * 2
    assert [row["sides"] for row in report["sources"]] == [ROWS + 3, ROWS]


def test_tokens_time_and_gpu_hours_follow_from_what_was_measured(piloted):
    _, report, _ = piloted
    pilot, projection = report["pilot"], report["projection"]
    assert pilot["completion_tokens"] == ANSWER_TOKENS * pilot["sides"]
    tokens = projection["completion_tokens"]
    assert tokens["low"] == tokens["value"] == tokens["high"] == ANSWER_TOKENS * projection["sides"]
    assert projection["wall_hours"]["value"] == pytest.approx(tokens["value"] / pilot["tokens_per_s"] / 3_600)
    assert projection["gpu_hours"]["value"] == pytest.approx(4 * projection["wall_hours"]["value"])


def test_pairs_kept_are_a_range_that_holds_what_the_pilot_saw(piloted):
    _, report, _ = piloted
    kept = report["projection"]["pairs_kept"]
    assert 0 <= kept["low"] < kept["value"] <= kept["high"] <= 2 * ROWS
    assert sum(row["pilot_kept"] for row in report["sources"]) == report["pilot"]["kept"]


def test_a_pilot_touches_no_version_and_is_made_anew_each_time(piloted):
    chosen, report, _ = piloted
    store = Store(chosen.output)
    assert not store.exists("v1") and orjson.loads(store.read_bytes("pilot/report.json")) == report
    assert store.exists("pilot/annotations/00000.parquet")


def test_what_a_person_sees_has_samples_reasons_rate_and_projection(piloted):
    _, report, _ = piloted
    sink = io.StringIO()
    print_pilot(report, "somewhere", Console(file=sink, width=160))
    text = sink.getvalue()
    assert len(report["samples"]) >= 2 and all(sample["text"] in text for sample in report["samples"])
    for words in ("Looking at", "kept", "tokens/s", "GPU-hours", "243", "somewhere/report.json", *report["notes"]):
        assert words in text.replace("\n", " ")


def test_a_pilot_shows_how_far_it_is(piloted):
    _, report, shown = piloted
    assert {"sampling mmeb/A", "annotating", "filtering"} <= {what for what, _, _ in shown}
    sides = report["pilot"]["sides"]
    done = [count for what, count, total in shown if what == "annotating" and total == sides]
    assert done and all(0 <= count <= sides for count in done)


def row(outcome: str, tokens: int) -> dict:
    return {"outcome": outcome, "completion_tokens": tokens}


def verdict(tokens: int, reasons: list[str], repeat_tokens: int = 0, period: int = 0) -> dict:
    return {
        "kept": not reasons, "reasons": reasons, "completion_tokens": tokens, "repeat_tokens": repeat_tokens,
        "repeat_period": period,
    }  # fmt: skip


def test_a_loop_costs_its_tokens_and_a_stop_saves_all_but_the_copies_it_waits_for():
    attempts = [row("ok", 600), row("loop", 400)]
    loops = loop_cost(attempts, [verdict(600, []), verdict(400, ["repetition", "truncated"], 340, period=5)])
    assert loops == {"share": 0.4, "saved": pytest.approx((340 - 24 * 5) / 1_000)}


def test_a_completion_that_was_cut_without_looping_is_not_promised_to_be_saved():
    loops = loop_cost([row("ok", 600), row("cut", 400)], [verdict(600, []), verdict(400, ["truncated"])])
    assert loops == {"share": 0.4, "saved": 0.0}


def test_loops_are_spoken_of_only_where_they_cost_and_the_switch_is_off(tmp_path):
    asked = recipe(tmp_path, "http://h/v1")
    with_stop = asked.model_copy(
        update={"annotation": type(asked.annotation).model_validate(asked.annotation.model_dump() | {"stop_loops": {}})}
    )
    much, little, cut = {"share": 0.2, "saved": 0.1}, {"share": 0.01, "saved": 0.01}, {"share": 0.2, "saved": 0.0}
    assert "`annotation.stop_loops: {}` would save about 10.0%" in notes(asked, 100, FAST, much)[-1]
    assert "would not save them" in notes(asked, 100, FAST, cut)[-1]
    assert "would save" not in notes(with_stop, 100, FAST, much)[-1]
    assert not any("looped" in note for note in notes(asked, 100, FAST, little))


def test_a_server_that_was_not_kept_full_is_said_to_be_faster(tmp_path):
    asked = recipe(tmp_path, "http://h/v1")
    assert any("not kept full" in note for note in notes(asked, 9, FAST, {"share": 0, "saved": 0}))
    assert not any("not kept full" in note for note in notes(asked, 16, FAST, {"share": 0, "saved": 0}))


def test_numbers_have_the_digits_and_the_unit_that_an_estimate_deserves():
    assert [counted(n) for n in (3.214e9, 12_400_000, 8_300, 2.43)] == ["3.21 B", "12.4 M", "8,300", "2.4"]
    assert [lasting(h) for h in (0.05, 5.25, 60)] == ["3.0 min", "5.2 h", "2.5 days"]
