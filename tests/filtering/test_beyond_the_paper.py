"""Bursts, commentary, copies of the prompt, long summaries: found as in the released data, and flagged unless asked."""

import numpy as np
import pytest
from pydantic import ValidationError

from schemas.recipe import STRICT_FILTERS, Filters
from umer1_core.filtering.burst import burst_chars, language_burst
from umer1_core.filtering.commentary import commentary_chars, has_commentary
from umer1_core.filtering.prompt_copy import copies_prompt, prompt_copy
from umer1_core.filtering.summary import summary_chars, summary_too_long
from umer1_core.template import ANNOTATION_PROMPT, parse_annotation

PROSE = (
    "So, let's analyze the image. There are two dogs touching noses in a grassy area — one's white, the other’s tan. "
)


@pytest.mark.parametrize(
    ("completion", "side_text", "chars"),
    [
        (PROSE, "", 0),
        ("The image 因此 shows a dog", "", 2),
        ("The 图像, 因为这个, shows", "", 4),
        ("The sign reads “上海南站” in the photo (上海).", "", 0),
        ("A station in 上海 at night", "Photo of 上海", 0),
        ("A station in 上海 at night, это вокзал", "Photo of 上海", 6),
        ("这张图片显示了一只狗，它在草地上。So a dog.", "", 0),
        ("an angle α of 30°, ΔT = 4 K, 5 μm, 20 Ω, naïve café, 😀 ✓ → ①", "", 0),
        ("the word ἀγάπη is here", "", 5),
        ("이 이미지 shows", "これは犬です", 3),
        ("a כלב dog", "", 3),
        ("", "", 0),
    ],
)
def test_a_burst_is_a_run_of_a_script_that_neither_input_nor_text_is_in(completion, side_text, chars):
    assert burst_chars(completion, side_text) == chars


@pytest.mark.parametrize(
    ("answer", "chars"),
    [
        ("Commercial airplane flies low over sign near motorway, clear sky.", 0),
        ("**Summary:** red circle", 0),
        ("<|begin_of_box|>left<|end_of_box|>", 0),
        ("Two dogs\n(Interpreting the image)", len("(Interpreting the image)")),
        ("A cat\n<|begin_of_box|>A meme<|end_of_box|>", len("A cat")),
        ("A meme\n<|begin_of_box|>A meme<|end_of_box|>", 0),
    ],
)
def test_commentary_is_what_the_answer_says_beside_its_summary(answer, chars):
    assert commentary_chars(parse_annotation(f"<think>t</think><answer>{answer}</answer>")) == chars


def test_reciting_the_prompt_is_a_copy_and_using_its_words_is_none():
    assert prompt_copy(ANNOTATION_PROMPT) == 1.0
    assert prompt_copy(ANNOTATION_PROMPT.replace(" ", "\n\t")) == 1.0
    assert (
        prompt_copy(PROSE * 5 + "The key elements, main topic and notable features for retrieval purposes are dogs.")
        == 0
    )
    other = " ".join(f"word{number}" for number in range(len(ANNOTATION_PROMPT.split())))
    half = prompt_copy(f"{ANNOTATION_PROMPT} and then {other}")
    assert 0.4 < half < 0.5
    assert prompt_copy("") == prompt_copy("a few words") == 0.0


def test_every_eight_words_of_the_prompt_are_found():
    words = ANNOTATION_PROMPT.split()
    for start in range(len(words) - 7):
        assert prompt_copy("so then " + " ".join(words[start : start + 8]) + " dogs play") > 0, start


@pytest.mark.parametrize(
    ("rule", "limit", "scores", "found"),
    [
        (language_burst, 1, [0, 1, 2], [False, False, True]),
        (copies_prompt, 0.1, [0.0, 0.1, 0.2], [False, False, True]),
        (summary_too_long, 256, [1, 256, 257], [False, False, True]),
        (has_commentary, True, [0, 1, 2], [False, True, True]),
    ],
)
def test_a_rule_finds_what_is_above_its_limit_and_nothing_without_one(rule, limit, scores, found):
    assert rule(np.array(scores), limit).tolist() == found
    assert not rule(np.array(scores), type(limit)(0)).any()


def test_summary_length_is_that_of_the_cleaned_summary():
    assert summary_chars(parse_annotation("<think>t</think><answer>**red**\nand more</answer>")) == 3


def test_the_strict_preset_fills_what_is_not_set_and_survives_being_written_down():
    strict = Filters(preset="strict", max_summary_chars=0, max_prompt_copy=0.5)
    assert (strict.max_burst_chars, strict.drop_commentary) == (STRICT_FILTERS["max_burst_chars"], True)
    assert (strict.max_summary_chars, strict.max_prompt_copy) == (0, 0.5)
    assert Filters.model_validate(strict.model_dump(mode="json")) == strict
    paper = Filters()
    assert not any([paper.max_burst_chars, paper.max_prompt_copy, paper.max_summary_chars, paper.drop_commentary])


@pytest.mark.parametrize("wrong", [{"repeat_min_tokens": 15}, {"repeat_min_count": 1.5}])
def test_loops_shorter_than_the_profiles_know_cannot_be_asked_for(wrong):
    with pytest.raises(ValidationError, match="greater than or equal"):
        Filters(**wrong)
