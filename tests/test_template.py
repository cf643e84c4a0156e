"""Prompts are rendered one way, and responses taken apart strictly."""

import pytest

from umer1_core.template import (
    ANNOTATION_PROMPT,
    annotation_text,
    parse_annotation,
    parse_rollout,
    training_prompt,
    training_response,
)

GOOD = "<think>A red circle.</think>\n<answer>red circle</answer>"


def test_a_well_formed_completion_gives_reasoning_and_summary():
    response = parse_annotation(GOOD)
    assert (response.reasoning, response.summary, response.problem) == ("A red circle.", "red circle", "")


def test_an_answer_need_not_be_closed_unless_it_was_cut_off():
    assert parse_annotation("<think>a</think><answer>b").problem == ""
    assert parse_annotation("<think>a</think><answer>b", truncated=True).problem == "truncated"


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ("", "empty_completion"),
        ("a red circle", "no_think"),
        ("<think>never ends", "unclosed_think"),
        ("<think>a</think> red circle", "no_answer"),
        ("<think>a</think> so <answer>b</answer>", "text_outside_tags"),
        ("<think>a</think><answer>b</answer> and more", "text_outside_tags"),
        ("<think>a<think>b</think></think><answer>c</answer>", "nested_tags"),
        ("<think>a</think><answer>b</answer><answer>c</answer>", "nested_tags"),
        ("<think></think><answer>b</answer>", "empty_reasoning"),
        ("<think>a</think><answer> </answer>", "empty_summary"),
    ],
)
def test_every_deviation_has_its_own_name(raw, problem):
    assert parse_annotation(raw).problem == problem


def test_the_boxed_text_is_the_summary_when_there_is_a_box():
    raw = "<think>t</think><answer>A sentence before.\n<|begin_of_box|>the essence<|end_of_box|></answer>"
    assert parse_annotation(raw).summary == "the essence"


def test_without_a_box_the_first_line_is_the_summary():
    raw = "<think>t</think><answer>Two dogs on grass\n(Interpreting the image: two dogs)</answer>"
    assert parse_annotation(raw).summary == "Two dogs on grass"


def test_a_rollout_ends_with_exactly_one_gen_emb():
    assert parse_rollout(training_response("why", "what")).problem == ""
    assert parse_rollout(GOOD).problem == "no_gen_emb"
    assert parse_rollout("<think>a</think><answer>b\n<gen_emb> c").problem == "text_after_gen_emb"


def test_prompts_match_the_papers_templates():
    assert annotation_text(" a cat ") == f"a cat\n\n{ANNOTATION_PROMPT}" and annotation_text("") == ANNOTATION_PROMPT
    assert training_prompt("a cat").startswith("a cat\n<disc_emb>\nRepresent the above input text")
    assert training_response("r", "s") == "<think>r</think><answer>s\n<gen_emb>"
