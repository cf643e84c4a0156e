"""What a GRPO training came to, as its folder says."""

from pathlib import Path

import orjson
import pytest

from umer1_core.errors import Fatal
from umer1_core.grpo.watch.report import before_after, report_page
from umer1_core.store import Store
from umer1_core.training.outcome import read_finished, trained_student

REPORT = {"model": "grpo/model", "steps": 60, "rejected_pairs": 0, "stopped": ""}


def ended(folder: Path, **changes: object) -> Path:
    (folder / "finished.json").write_bytes(orjson.dumps({"report": REPORT | changes}))
    return folder


def test_a_training_that_has_not_ended_came_to_nothing_yet(tmp_path):
    assert read_finished(tmp_path) is None


def test_the_end_is_told_in_a_line_without_a_warning(tmp_path):
    finished = read_finished(ended(tmp_path, rejected_pairs=3))
    assert finished is not None and finished.warning == ""
    assert finished.message == "GRPO: 60 steps. 3 pairs could not be used."


def test_the_reports_headline_is_told_without_its_emphasis(tmp_path):
    page = report_page(before_after({"hit_gen": 0.5}, {"hit_gen": 0.75}, []))
    (tmp_path / "report.md").write_text(page)
    finished = read_finished(ended(tmp_path))
    assert finished is not None and "*" not in finished.message
    assert "Held-out slice: hit@1, generative: 0.500 → 0.750 (+25.0 points)" in finished.message


@pytest.mark.parametrize(("steps", "kept"), [(30, "that of step 30"), (0, "that of SFT")])
def test_what_a_guard_stopped_is_a_warning_that_says_which_model_was_kept(tmp_path, steps, kept):
    finished = read_finished(ended(tmp_path, steps=steps, stopped="Step 34: gap is 0.1."))
    assert finished is not None and finished.message == finished.warning
    assert finished.warning == f"GRPO was stopped by a guard. Step 34: gap is 0.1. The kept model is {kept}."


def test_without_a_student_of_sft_the_error_says_how_to_get_one(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(Fatal, match=f"umer1 train {tmp_path}"):
        trained_student(store)
    (tmp_path / "sft" / "model").mkdir(parents=True)
    assert trained_student(store) == str(tmp_path / "sft" / "model")
