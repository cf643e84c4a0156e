"""The real main job at reduced size: a real Prefect server, the real vLLM server, a real loss, a real hit@1.

One run is killed with -9 in the middle of annotation and in the middle of GRPO; the same command finishes the work.
"""

import json
from pathlib import Path

import pytest

from tests.flows.main_job import Place, kill_when, make_place, run, start
from umer1_core.annotation.journal import count_records
from umer1_core.training.watch.log import read_lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Place, str]:
    """A place where the job was killed twice and then finished, and what the last command printed."""
    place = make_place(tmp_path_factory.mktemp("main-job"))
    journals = place.folder / "out" / "v1" / "journal"

    def annotated() -> int:
        return sum(count_records(path) for path in journals.glob("*.jsonl")) + sum(
            entry.rows for entry in place.store.entries("annotations")
        )

    kill_when(start(place, "build", str(place.recipe)), lambda: annotated() >= 60)
    progress = place.folder / "out" / "v1" / "grpo" / "progress.json"
    kill_when(start(place, "build", str(place.recipe)), lambda: progress.exists() and _step(progress) >= 2, 600)
    code, printed = run(place, "build", str(place.recipe))
    assert code == 0, printed
    return place, printed


def _step(progress) -> int:
    try:
        return int(json.loads(progress.read_text())["step"])
    except json.JSONDecodeError:
        return 0  # being replaced at this moment


def test_the_last_command_prints_counts_scores_and_the_reports_path(finished):
    _, printed = finished
    for words in ("pairs kept", "cold start", "generative", "discriminative", "oracle", "chance", "index.html"):
        assert words in printed
    assert all(words in printed for words in ("6/6 steps", "GRPO, pooled", "SFT, pooled", "report.md"))


def test_no_side_is_lost_or_annotated_twice(finished):
    store = finished[0].store
    sides = store.read("sides", ["side_key"])["side_key"].to_pylist()
    answered = store.read("annotations", ["side_key"])["side_key"].to_pylist()
    assert sorted(sides) == sorted(answered) and len(set(sides)) == len(sides)


def test_kill_9_costs_no_more_than_what_was_in_flight(finished):
    store = finished[0].store
    rows = store.read("annotations", ["side_key", "attempts"])
    # Requests of the finishing runs: everything but what the journals had kept.
    requests = sum(entry.metrics["requests"] for entry in store.entries("annotations"))
    assert requests <= rows.num_rows - 60 + 2 * 48


def test_totals_add_up_at_every_stage(finished):
    manifest = finished[0].store.read_json("manifest.json")
    assert manifest["broken_totals"] == []
    for row in manifest["funnel"]:
        assert row["read"] == row["not_drawn"] + sum(row["rejected"].values()) + row["pairs"], row
        assert row["pairs"] == row["kept"] + row["dropped_pairs"] and row["kept"] == row["cold_start"], row


def test_the_filters_have_real_work_and_leave_most(finished):
    store = finished[0].store
    kept = store.read("verdicts", ["kept"])["kept"].to_pylist()
    assert 0 < 1 - sum(kept) / len(kept) <= 0.25
    # Most of what the teacher spoils is asked for again before the filters see it.
    outcomes = store.read("attempts", ["outcome"])["outcome"].to_pylist()
    assert 0.02 <= 1 - outcomes.count("ok") / len(outcomes) <= 0.25


def test_the_same_command_again_asks_nothing_and_changes_nothing(finished):
    place, _ = finished
    before = place.store.read_json("manifest.json")["data_hash"]
    scores = place.store.read_bytes("scores.json")
    code, printed = run(place, "build", str(place.recipe))
    assert code == 0 and "This run sent 0 requests to the annotator." in printed
    assert place.store.read_json("manifest.json")["data_hash"] == before
    assert place.store.read_bytes("scores.json") == scores


def test_training_was_started_for_the_valid_data_set_and_finished(finished):
    store = finished[0].store
    marker = store.read_json("_VALIDATED.json")
    assert marker["data_hash"] == store.read_json("manifest.json")["data_hash"]
    assert store.exists("sft/finished.json")
    overall = store.read_json("scores.json")["overall"]
    assert overall["oracle"] >= max(overall["generative"], overall["discriminative"]) > 0


def test_grpo_went_on_from_its_checkpoint_and_from_the_student_of_sft(finished):
    store = finished[0].store
    sft, grpo = (store.read_json(f"{stage}/finished.json")["report"] for stage in ("sft", "grpo"))
    assert sft["resumed_from"] == 0, "it had ended before the kill, and was not repeated"
    assert 1 <= grpo["resumed_from"] < grpo["steps"] == 6 and grpo["base"] == sft["model"]
    done = [record["step"] for record in read_lines(Path(store.at("grpo/losses.jsonl")))]
    assert done == [1, 2, 3, 4, 5, 6]
    scores = store.read_json("scores.json")
    assert {"overall", "sft", "untrained", "pooled", "sft_pooled"} <= set(scores)
