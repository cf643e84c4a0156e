"""What is asked for again, and how."""

import pytest

from schemas.recipe import Annotation
from umer1_core.annotation.client import Reply
from umer1_core.annotation.ladder import judge, loops, temperature

GOOD = "<think>A red circle above a blue square.</think><answer>red circle</answer>"
PROSE = (
    "The image shows a red circle above a blue square, and the circle is larger than the square. The background is "
    "white. There is no text in the image, so the shapes and their colours are what matters for retrieval here."
)


@pytest.mark.parametrize(
    ("text", "finish_reason", "outcome"),
    [
        (GOOD, "stop", "ok"),
        (GOOD[:40], "length", "cut"),
        (GOOD, "length", "cut"),
        (GOOD[:40], "stop", "malformed"),
        ("", "stop", "malformed"),
        (GOOD[:40], "repetition", "loop"),
        (f"<think>{PROSE}" + " and a blue square" * 9, "length", "loop"),
    ],
)
def test_a_completion_is_judged_by_its_form_and_its_end(text, finish_reason, outcome):
    assert judge(Reply(text, finish_reason, 1, 1)) == outcome


@pytest.mark.parametrize("period", [1, 2, 3, 7, 20])
def test_a_loop_of_words_is_seen_in_the_middle_of_prose(period):
    span = " ".join(f"word{i}" for i in range(period))
    copies = max(5, -(-24 // period))
    assert loops(f"{PROSE} {' '.join([span] * copies)} {PROSE}")


@pytest.mark.parametrize("text", [PROSE, f"{PROSE} {PROSE}", "no no no", "", " ".join(["shape"] * 23)])
def test_prose_and_what_is_said_twice_are_no_loop(text):
    assert not loops(text)


def test_every_rung_is_a_little_hotter_up_to_a_limit():
    annotation = Annotation.model_validate(
        {"model": "m", "completion": {"temperature": 1.9}, "ladder": {"attempts": 5, "temperature_step": 0.05}}
    )
    assert [round(temperature(annotation, rung), 2) for rung in (1, 2, 3, 9)] == [1.9, 1.95, 2.0, 2.0]
