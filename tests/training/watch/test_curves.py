"""The picture and the page of a training."""

import base64
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umer1_core.training.watch.curves import WIDTH, curves_svg, smooth
from umer1_core.training.watch.page import headline, training_page
from umer1_core.training.watch.sheets import SFT

SVG = "{http://www.w3.org/2000/svg}"


def step(number: int, **changes) -> dict:
    falling = 5.0 * math.exp(-number / 100)
    return {
        "step": number,
        "loss": 2 * falling + 1,
        "disc": falling,
        "gen": falling + 0.3,
        "token": 0.7,
        "cross": 0.0,
        "hit_disc": 1 - math.exp(-number / 80),
        "hit_gen": 1 - math.exp(-number / 120),
        "seconds": 2.0,
        "tokens_per_s": 12_000.0,
        "waste": 0.01,
        "memory_gb": 38.0,
        "skipped": 0,
    } | changes


def evaluation(number: int, hit: float) -> dict:
    return {"step": number, "hit_disc": hit, "hit_gen": hit, "hit": hit, "gen_ok": 1.0, "cot_swapped": 0.5}


STEPS = [step(i) for i in range(1, 301)]
EVALUATIONS = [evaluation(100, 0.4), evaluation(200, 0.8), evaluation(300, 0.7)]


def elements(svg: str, kind: str, style: str) -> list[ET.Element]:
    return [e for e in ET.fromstring(svg).iter(SVG + kind) if style in e.get("class", "").split()]


def texts(svg: str) -> str:
    return " ".join("".join(e.itertext()) for e in ET.fromstring(svg).iter(SVG + "text"))


def numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", path)]


def test_the_picture_needs_nothing_else_and_holds_every_curve():
    svg = curves_svg(STEPS, EVALUATIONS)
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "") and "<script" not in svg
    assert len(elements(svg, "path", "line")) == 4 + 2 + 3 and len(elements(svg, "path", "mark")) == 2 * 3
    for words in ("Loss", "hit@1", "Tokens per second", "Padding waste", "Memory, peak", "step", "best"):
        assert words in texts(svg)
    assert "12k" in texts(svg) and "1%" in texts(svg) and "38 GB" in texts(svg)


@pytest.mark.parametrize("count", [1, 2, 7, 5_000])
def test_everything_lies_inside_the_picture_whatever_the_number_of_steps(count):
    svg = curves_svg([step(i) for i in range(1, count + 1)])
    lines = elements(svg, "path", "line")
    assert len(lines) == 9
    for path in lines:
        places = numbers(path.get("d"))
        assert all(0 <= x <= WIDTH for x in places[::2]) and all(0 <= y <= SFT.height for y in places[1::2])


def test_the_size_of_the_picture_does_not_grow_with_the_steps():
    sizes = [len(curves_svg([step(i) for i in range(1, count)])) for count in (2_000, 20_000)]
    assert sizes[1] < 1.05 * sizes[0] < 100_000


def test_a_falling_loss_falls_on_the_picture():
    (total,) = elements(curves_svg(STEPS), "path", "total")[1:]
    heights = numbers(total.get("d"))[1::2]
    assert heights == sorted(heights) and heights[0] < heights[-1], "pixels count downwards"


def test_labels_do_not_cover_each_other():
    same = [step(i, disc=0.71, gen=0.72, token=0.7) for i in range(1, 50)]
    heights = sorted(float(e.get("y")) for e in elements(curves_svg(same), "text", "label")[:4])
    assert min(np.diff(heights)) >= 13


def test_one_spike_does_not_flatten_the_rest():
    spiked = [*STEPS[:150], step(151, loss=1e6, disc=1e6), *STEPS[151:]]
    plain, other = (elements(curves_svg(steps), "path", "disc")[1].get("d") for steps in (STEPS, spiked))
    moved = np.abs(np.subtract(numbers(plain)[1::2], numbers(other)[1::2]))
    assert np.median(moved) < 3 and moved.max() > 3, (
        "the spike is not even in the mean, so this test would prove nothing"
    )


def test_skipped_steps_and_missing_numbers_are_left_out():
    gaps = [step(i) if i % 3 else step(i, loss=None, disc=None, gen=None, skipped=1) for i in range(1, 60)]
    svg = curves_svg(gaps, [{"step": 30, "hit": None, "hit_disc": None, "hit_gen": None}])
    assert len(elements(svg, "path", "line")) == 9 and not elements(svg, "path", "mark")


def test_terms_that_a_training_does_not_have_are_not_drawn():
    dume = [step(i, gen=0.0, token=0.0, hit_gen=0.0) for i in range(1, 60)]
    assert len(elements(curves_svg(dume), "path", "line")) == 2 + 1 + 3


def test_before_the_first_step_the_picture_says_so():
    assert texts(curves_svg([])).count("nothing yet") == 5


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=200))
def test_smoothing_stays_between_the_extremes_and_leaves_a_constant_alone(values):
    line = smooth(np.array(values))
    assert len(line) == len(values)
    assert line.min() >= min(values) - 1e-6 and line.max() <= max(values) + 1e-6
    assert np.allclose(smooth(np.full(len(values), 3.0)), 3.0)


def test_smoothing_takes_most_of_the_noise_away():
    noise = np.random.default_rng(0).normal(size=2_000)
    assert smooth(noise).std() < 0.2 * noise.std()


# -- the page --------------------------------------------------------------------------------------------------------


def test_the_page_holds_the_numbers_the_best_checkpoint_and_the_picture():
    picture = curves_svg(STEPS, EVALUATIONS)
    page = training_page(STEPS, EVALUATIONS, 1_000, picture, "http://127.0.0.1:1/x/training.svg")
    assert page.startswith("# Training: step 300 of 1,000")
    assert "best checkpoint: step 200, held-out hit@1 0.800" in page and "| **200 (best)** | 0.800 |" in page
    assert "12.0k tokens/s" in page and "| padding waste | 1.0% | 1.0% |" in page
    assert "cross" not in page and "disc(query)" not in page, "a term that is not trained is not shown"
    assert "(http://127.0.0.1:1/x/training.svg)" in page
    data = re.search(r"data:image/svg\+xml;base64,([^)]+)\)", page).group(1)
    assert base64.b64decode(data).decode() == picture


def test_the_page_compares_the_first_steps_with_the_last():
    page = training_page([step(i, loss=float(i)) for i in range(1, 101)], [], 100, "")
    assert "| loss | 10.500 | 90.500 |" in page and "Held-out" not in page


def test_the_page_counts_skipped_steps_and_leaves_them_out_of_the_means():
    steps = [step(1), step(2, loss=None, skipped=1), step(3)]
    page = training_page(steps, [], 10, "")
    assert "steps skipped: 1" in page and "nan" not in page and "None" not in page


def test_before_the_first_step_the_page_says_so():
    assert "0 of 10 steps" in training_page([], [], 10, "") and headline([], 10) == "0 of 10 steps"
    assert headline([step(3)], 10).startswith("step 3 of 10  loss")
