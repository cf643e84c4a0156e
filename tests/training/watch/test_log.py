"""The log of a training: whole, resumable, the same in its files and in TensorBoard."""

import json
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from umer1_core.training.watch.log import (
    EVALUATIONS,
    REJECTIONS,
    STEPS,
    RunLog,
    best_evaluation,
    read_lines,
    terms,
)
from umer1_core.training.watch.sheet import thousands


def record(step: int, loss: float = 1.0) -> dict:
    return {"step": step, "loss": loss, "disc": 0.4, "hit_gen": 0.5, "tokens_per_s": 900.0, "skipped": 0}


def rejection(pair: str) -> dict:
    return {"pair_id": pair, "source": "s", "reason": "too_many_tokens", "detail": "9 tokens, the limit is 8"}


def scalars(folder, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_a_step_is_on_disk_and_in_tensorboard_before_the_log_is_closed(tmp_path):
    log = RunLog(tmp_path)
    log.step(record(1, 2.5))
    log.evaluation({"step": 1, "hit": 0.25, "hit_gen": 0.25})
    assert read_lines(tmp_path / STEPS) == [record(1, 2.5)]
    assert scalars(tmp_path, "loss/total") == [(1, 2.5)]
    assert scalars(tmp_path, "hit@1/gen") == [(1, 0.5)] and scalars(tmp_path, "speed/tokens_per_s") == [(1, 900.0)]
    assert scalars(tmp_path, "eval/hit_gen") == [(1, 0.25)]
    log.close()


def test_a_resumed_log_ends_up_as_one_that_was_not_interrupted(tmp_path):
    with RunLog(tmp_path) as log:
        for step in range(1, 6):
            log.step(record(step, 10.0 + step))
            log.evaluation({"step": step, "hit": step / 10})
        log.reject({"step": 5, "reason": "loss_not_finite", "detail": "nan"})
        log.reject(rejection("a"))
    with open(tmp_path / STEPS, "a") as file:
        file.write('{"step": 6, "lo')
    with RunLog(tmp_path, done=3) as log:
        for step in range(4, 8):
            log.step(record(step, float(step)))
    expected = [11.0, 12.0, 13.0, 4.0, 5.0, 6.0, 7.0]
    assert [line["loss"] for line in read_lines(tmp_path / STEPS)] == expected
    assert scalars(tmp_path, "loss/total") == list(zip(range(1, 8), expected, strict=True))
    assert [line["step"] for line in read_lines(tmp_path / EVALUATIONS)] == [1, 2, 3]
    assert read_lines(tmp_path / REJECTIONS) == [rejection("a")], "what befell a step that is done again is forgotten"


def test_a_rejected_pair_stands_once_also_after_a_resume(tmp_path):
    with RunLog(tmp_path) as log:
        log.reject(rejection("a"))
        log.reject(rejection("a"))
    with RunLog(tmp_path, done=4) as log:
        log.reject(rejection("a"))
        log.reject(rejection("b"))
        log.reject({"step": 5, "reason": "no_pairs", "detail": ""})
        log.reject({"step": 6, "reason": "no_pairs", "detail": ""})
        assert log.rejected_rows == 2
    assert [line.get("pair_id") for line in read_lines(tmp_path / REJECTIONS)] == ["a", "b", None, None]


def test_numbers_that_are_not_finite_are_null_and_not_drawn(tmp_path):
    with RunLog(tmp_path) as log:
        log.step(record(1, math.nan))
        log.step(record(2, 3.0))

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    lines = (tmp_path / STEPS).read_text().splitlines()
    assert [json.loads(line, parse_constant=refuse)["loss"] for line in lines] == [None, 3.0]
    assert scalars(tmp_path, "loss/total") == [(2, 3.0)]


def test_a_process_that_does_not_write_leaves_no_trace_and_cuts_nothing(tmp_path):
    with RunLog(tmp_path) as log:
        log.step(record(1))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with RunLog(tmp_path, done=0, writes=False) as log:
        log.step(record(1))
        log.evaluation({"step": 1, "hit": 0.5})
        log.reject(rejection("a"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert len(read_lines(tmp_path / STEPS)) == 1


def test_a_line_that_is_being_written_is_not_seen(tmp_path):
    path = tmp_path / STEPS
    assert read_lines(path) == []
    path.write_text('{"step": 1}\n{"step": 2')
    assert read_lines(path) == [{"step": 1}]


def test_the_best_evaluation_is_the_earliest_of_the_highest():
    evaluations = [{"step": 1, "hit": 0.5}, {"step": 2, "hit": 0.9}, {"step": 3, "hit": 0.9}, {"step": 4, "hit": None}]
    assert best_evaluation(evaluations) == evaluations[1]
    assert best_evaluation([{"step": 1}]) is None


def test_a_step_in_a_line():
    full = {"step": 7, "loss": 1.234, "disc": 0.4, "gen": 0.3, "token": 0.534, "hit_disc": 0.91, "hit_gen": 0.88}
    full |= {"tokens_per_s": 12_345.0, "waste": 0.012, "skipped": 0}
    line = "loss 1.23  disc .40  gen .30  token .53  hit@1 .91/.88  12.3k tok/s  waste 1%"
    assert terms(full) == line
    assert terms({"loss": 12.0, "disc": 12.0, "hit_disc": 1.0, "hit_gen": None}) == "loss 12  disc 12  hit@1 1/–"
    assert terms(full | {"skipped": 1, "loss": None}) == "step skipped"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (830.4, "830"), (12_345, "12.3k"), (250_000, "250k"), (1.2e6, "1.2M")]
)
def test_thousands(value, text):
    assert thousands(value) == text
