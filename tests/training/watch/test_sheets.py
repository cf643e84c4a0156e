"""What reinforcement learning shows of itself, by the same log, curves and page as fine-tuning."""

import math
import re

import pytest

from tests.grpo.watch.records import evaluation, steps
from tests.training.watch.test_curves import elements, numbers, texts
from tests.training.watch.test_log import scalars
from umer1_core.training.watch.curves import WIDTH, curves_svg
from umer1_core.training.watch.log import STEPS, RunLog, read_lines, terms
from umer1_core.training.watch.page import headline, training_page
from umer1_core.training.watch.sheets import GRPO, SFT

RECORDS = steps(120)
EVALUATIONS = [evaluation(step, 0.8 + step / 1_500) for step in (0, 40, 80, 120)]


@pytest.mark.parametrize("sheet", [SFT, GRPO])
def test_what_a_sheet_draws_it_also_logs_and_every_colour_is_there(sheet):
    series = [s for plan in sheet.plans for s in plan.series]
    assert {s.name for s in series if s.name} <= set(sheet.scalars)
    assert {number.key for number in sheet.numbers} <= set(sheet.scalars)
    assert {s.tone for s in series} <= set(sheet.tones)
    assert len(set(sheet.scalars.values())) == len(sheet.scalars)
    assert max(plan.frame.top + plan.frame.height for plan in sheet.plans) < sheet.height - 20


def test_the_components_of_the_reward_are_drawn_apart_and_the_held_out_slice_beside_them():
    svg = curves_svg(RECORDS, EVALUATIONS, GRPO)
    assert len(elements(svg, "path", "line")) == 4 + 3 + 2 + 1 + 1 + 3 + 1 + 1
    assert len(elements(svg, "path", "mark")) == 2 * len(EVALUATIONS)
    for words in (
        "Reward",
        "hit@1",
        "Group spread",
        "KL to the reference",
        "Entropy",
        "Seconds a step",
        "Truncated",
    ):
        assert words in texts(svg)
    assert "generate 1.4" in texts(svg) and "ranking 0." in texts(svg) and "best" in texts(svg)
    assert "nothing yet" not in texts(svg)


def test_an_evaluation_before_the_first_step_stands_left_of_it():
    svg = curves_svg(RECORDS, EVALUATIONS, GRPO)
    (held_out,) = elements(svg, "path", "gen")[1:]
    (own,) = [path for path in elements(svg, "path", "total") if "line" in path.get("class")][1:2]
    first, last = numbers(held_out.get("d"))[0], numbers(held_out.get("d"))[-2]
    assert first < numbers(own.get("d"))[0] and last == numbers(own.get("d"))[-2]
    assert len(numbers(held_out.get("d"))) == 2 * len(EVALUATIONS)


@pytest.mark.parametrize("count", [1, 2, 60, 3_000])
def test_everything_lies_inside_the_picture_whatever_the_number_of_steps(count):
    svg = curves_svg(steps(count), [evaluation(count, 0.8)], GRPO)
    for path in elements(svg, "path", "line"):
        places = numbers(path.get("d"))
        assert all(0 <= x <= WIDTH for x in places[::2]) and all(0 <= y <= GRPO.height for y in places[1::2])


@pytest.mark.parametrize("scale", [0.01, 1.0, 12.0])
def test_labels_stay_inside_the_picture_and_clear_of_the_next_panel(scale):
    names = ("generate_s", "score_s", "train_s", "seconds", "kl")
    svg = curves_svg([r | {name: r[name] * scale for name in names} for r in RECORDS], EVALUATIONS, GRPO)
    frames = [plan.frame for plan in GRPO.plans]
    for label in elements(svg, "text", "label"):
        x, y = float(label.get("x")), float(label.get("y"))
        end = x + 6.9 * len("".join(label.itertext()))  # bold, 12 pixels
        beside = [f.left - 30 for f in frames if f.left > x and f.top <= y <= f.top + f.height + 5]
        assert end < min([WIDTH, *beside]), "".join(label.itertext())


def test_a_gap_below_zero_is_drawn_below_zero():
    fallen = [r | {"gap": -0.5} for r in RECORDS]
    (line,) = elements(curves_svg(fallen, (), GRPO), "path", "gap")[1:]
    frame = GRPO.plans[0].frame
    assert max(numbers(line.get("d"))[1::2]) < frame.top + frame.height
    ticks = [float(text) for text in re.findall(r"-?\d\.\d+", texts(curves_svg(fallen, (), GRPO)))]
    assert min(ticks) < 0


def test_before_the_first_step_there_is_nothing_but_the_evaluation():
    assert texts(curves_svg([], [], GRPO)).count("nothing yet") == len(GRPO.plans)
    assert texts(curves_svg([], [evaluation(0, 0.8)], GRPO)).count("nothing yet") == len(GRPO.plans) - 1


def test_the_page_says_what_the_time_is_spent_on_and_keeps_zeros_that_mean_something():
    still = [r | {"zero_std": 0.0, "truncated": 0.0, "clip": 0.0, "gap": 0.0} for r in RECORDS]
    page = training_page(still, EVALUATIONS, 150, curves_svg(still, EVALUATIONS, GRPO), "", GRPO)
    assert page.startswith("# GRPO: step 120 of 150\n")
    assert re.search(
        r"\d+ rollouts/s; 2\.4 s a step: generate \d+%, score \d+%, train \d+%; best evaluation: step 120", page
    )
    assert "| gap | 0.000 | 0.000 |" in page and "| groups without spread | 0.0% | 0.0% |" in page
    assert "clipped" not in page and "anchor" not in page
    assert "| **120 (best)** | 0.880 | 0.880 |" in page and "Cosines" in page


def test_a_step_in_a_line():
    record = {"step": 3, "reward": 1.316, "format": 0.98, "ranking": 0.714, "gap": -0.05, "hit": 1.0, "kl": 0.0123}
    record |= {"entropy": 0.31, "tokens": 83.4, "seconds": 2.31, "loss": 0.001}
    line = "reward 1.32  format .98  ranking .71  gap -.05  hit 1  KL .012  entropy .31  83 tokens  2.3 s"
    assert terms(record, GRPO) == line and headline([record], 9, GRPO) == f"step 3 of 9  {line}"
    assert terms({"step": 3, "reward": None, "kl": None, "rejected": 8}, GRPO) == "reward –"
    assert terms({"skipped": 1}, GRPO) == "step skipped"


def test_steps_without_rollouts_are_passed_over():
    holes = [r if r["step"] % 3 else {"step": r["step"], "rejected": 8.0, "rollouts": 0.0} for r in RECORDS]
    svg, page = curves_svg(holes, (), GRPO), training_page(holes, (), 150, "", "", GRPO)
    assert len(elements(svg, "path", "line")) == 14 and "nan" not in svg and "None" not in page


def test_the_log_draws_the_components_apart_in_tensorboard(tmp_path):
    with RunLog(tmp_path, sheet=GRPO) as log:
        log.step(RECORDS[0] | {"gap": math.nan})
        log.step(RECORDS[1])
    assert scalars(tmp_path, "reward/ranking") == [
        (1, pytest.approx(RECORDS[0]["ranking"])),
        (2, pytest.approx(RECORDS[1]["ranking"])),
    ]
    assert [step for step, _ in scalars(tmp_path, "reward/gap")] == [2]
    assert [line["gap"] for line in read_lines(tmp_path / STEPS)] == [None, RECORDS[1]["gap"]]
