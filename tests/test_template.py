"""Prompts are rendered one way, responses taken apart strictly, and dirt that annotators leave is cleaned."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from umer1_core.template import (
    ANNOTATION_PROMPT,
    BOX_CLOSE,
    BOX_OPEN,
    PROBLEMS,
    STUDENT_TAGS,
    TEACHER_TAGS,
    annotation_text,
    parse_annotation,
    parse_rollout,
    split_answer,
    training_prompt,
    training_response,
)

GOOD = "<think>A red circle.</think>\n<answer>red circle</answer>"
PIECES = st.sampled_from(
    [*TEACHER_TAGS, *STUDENT_TAGS, " ", "\n", "a", "red circle", "(Summary: b)", ". This ", "😀", "كلب"]
)
COMPLETIONS = st.lists(PIECES, max_size=14).map("".join)


def test_a_well_formed_completion_gives_reasoning_and_summary():
    response = parse_annotation(GOOD)
    assert (response.reasoning, response.summary, response.problem) == ("A red circle.", "red circle", "")


def test_an_answer_need_not_be_closed_unless_it_was_cut_off():
    assert parse_annotation("<think>a</think><answer>b").problem == ""
    assert parse_annotation("<think>a</think><answer>b", truncated=True).problem == "truncated"
    assert parse_annotation("<think>a</think><answer>b</answer>", truncated=True).problem == ""


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ("", "empty_completion"),
        (" \n\t", "empty_completion"),
        ("a red circle", "no_think"),
        ("Sure! <think>a</think><answer>b</answer>", "no_think"),
        ("<think>never ends", "unclosed_think"),
        ("<think>a</think> red circle", "no_answer"),
        ("<think>a</think><ans", "no_answer"),
        ("<think>a</think> so <answer>b</answer>", "text_outside_tags"),
        ("<think>a</think><answer>b</answer> and more", "text_outside_tags"),
        ("<think>a</think><answer>b</answer></answer>", "text_outside_tags"),
        ("<think>a<think>b</think></think><answer>c</answer>", "nested_tags"),
        ("<think>a</think><think>b</think><answer>c</answer>", "nested_tags"),
        ("<think>a</think><answer>b</answer><answer>c</answer>", "nested_tags"),
        ("<think>a</think><answer><answer>b</answer></answer>", "nested_tags"),
        ("<think>a <gen_emb></think><answer>b</answer>", "student_tags"),
        ("<think>a</think><answer>b <disc_emb></answer>", "student_tags"),
        ("<think></think><answer>b</answer>", "empty_reasoning"),
        (f"<think>{BOX_OPEN} {BOX_CLOSE}</think><answer>b</answer>", "empty_reasoning"),
        ("<think>a</think><answer> </answer>", "empty_summary"),
        (f"<think>a</think><answer>{BOX_OPEN}{BOX_CLOSE}</answer>", "empty_summary"),
        ("<think>a</think><answer>Summary:</answer>", "empty_summary"),
    ],
)
def test_every_deviation_has_its_own_name(raw, problem):
    assert parse_annotation(raw).problem == problem


@settings(max_examples=500, deadline=None)
@given(raw=COMPLETIONS | st.text(max_size=60), truncated=st.booleans())
@example(raw="<think>a</think><answer>b", truncated=True)
def test_every_completion_is_well_formed_or_has_exactly_one_known_problem(raw, truncated):
    response = parse_annotation(raw, truncated)
    if response.problem:
        assert response.problem in PROBLEMS
        return
    assert response.reasoning and response.summary and "\n" not in response.summary
    assert not any(tag in response.reasoning + response.summary for tag in (*TEACHER_TAGS, *STUDENT_TAGS))
    # What the student learns from it has the form again, with the same parts.
    learned = parse_rollout(training_response(response.reasoning, response.summary))
    assert (learned.problem, learned.reasoning) == ("", response.reasoning)


@settings(max_examples=300, deadline=None)
@given(inside=st.text(st.characters(codec="utf-8"), min_size=1, max_size=80).filter(str.strip))
def test_what_stands_between_the_tags_is_found_whatever_it_is(inside):
    if any(tag in inside for tag in (*TEACHER_TAGS, *STUDENT_TAGS)):
        return
    assert parse_annotation(f"<think>{inside}</think><answer>b</answer>").reasoning == inside.strip()


@pytest.mark.parametrize(
    ("answer", "summary", "commentary"),
    [
        # From UME-R1's figures and from the released data.
        (
            "Two dogs nose-to-nose on grass\n(Interpreting the image: two dogs, one white. Essence: two dogs.)",
            "Two dogs nose-to-nose on grass",
            "(Interpreting the image: two dogs, one white. Essence: two dogs.)",
        ),
        (
            "João Pessoa highway signs with aircraft\n(Condensed to capture the key elements: the main subject.)\n",
            "João Pessoa highway signs with aircraft",
            "(Condensed to capture the key elements: the main subject.)",
        ),
        (
            'Toddler constructing with a tool (Summary for retrieval: "toddler constructing" or similar)',
            "Toddler constructing with a tool",
            '(Summary for retrieval: "toddler constructing" or similar)',
        ),
        (
            "A child playing with a broom indoors (essence: a child playing with a broom in a room)",
            "A child playing with a broom indoors",
            "(essence: a child playing with a broom in a room)",
        ),
        (
            f"A Siamese cat with carrots, humorous text …\n{BOX_OPEN}A humorous meme featuring a cat{BOX_CLOSE}\n",
            "A humorous meme featuring a cat",
            "A Siamese cat with carrots, humorous text …",
        ),
        ('Airplane over "João Pessoa" sign, clear sky.', 'Airplane over "João Pessoa" sign, clear sky.', ""),
        ("left", "left", ""),
        # Their kin.
        (f"{BOX_OPEN}left{BOX_CLOSE}", "left", ""),
        (f"{BOX_OPEN}left", "left", ""),
        (f"left{BOX_CLOSE}", "left", ""),
        (f"left\n{BOX_OPEN}left{BOX_CLOSE}.", "left", "."),
        (f"{BOX_OPEN}{BOX_CLOSE}right{BOX_OPEN}left{BOX_CLOSE}", "left", "right"),
        ("**Summary:** A red circle.", "A red circle.", ""),
        ("Summary:\n**A red circle**", "A red circle", ""),
        ("A red circle. This summary captures it.", "A red circle.", "This summary captures it."),
        ("A red circle. It is blue inside.", "A red circle. It is blue inside.", ""),
        # Brackets and words that belong to the summary.
        ("Jaguar (animal)", "Jaguar (animal)", ""),
        ("Mona Lisa (Leonardo da Vinci, 1503)", "Mona Lisa (Leonardo da Vinci, 1503)", ""),
        ("(Summary of all)", "(Summary of all)", ""),
        ("Summary report for 2010: sales", "Summary report for 2010: sales", ""),
        ("Dr. Smith meets Mr. Jones in St. Louis.", "Dr. Smith meets Mr. Jones in St. Louis.", ""),
        ("**A** red **circle**", "**A** red **circle**", ""),
        ("شارع في القاهرة 😀", "شارع في القاهرة 😀", ""),
    ],
)  # fmt: skip
def test_the_summary_is_told_from_the_commentary(answer, summary, commentary):
    assert split_answer(answer) == (summary, commentary)
    response = parse_annotation(f"<think>t</think><answer>{answer}</answer>")
    assert (response.summary, response.commentary, response.answer) == (summary, commentary, answer.strip())


@given(answer=st.lists(PIECES, max_size=10).map("".join))
def test_cleaning_a_summary_again_changes_nothing_more_than_its_commentary(answer):
    summary, _ = split_answer(answer)
    assert summary == summary.strip() and BOX_OPEN not in summary and BOX_CLOSE not in summary
    assert summary in answer.replace(BOX_OPEN, "").replace(BOX_CLOSE, "")


_HEAD = "<think>a</think><answer>"
_MEGABYTE = {
    "closing tags": "<think>" + "</think> " * 110_000,
    "turns": "<think>" + "</think><answer>" * 62_000,
    "white space": "<think>a</think>" + " " * 1_000_000 + "<answe",
    "open brackets": _HEAD + "(" * 1_000_000 + ")",
    "closed brackets": _HEAD + "a (" + ")" * 1_000_000,
    "sentences": _HEAD + ". The " * 160_000,
    "a sentence that never comes": _HEAD + "a." + " " * 1_000_000 + "x",
    "dots": _HEAD + "." * 1_000_000 + "x",
    "quotes": _HEAD + "." + '"' * 1_000_000 + "x",
    "stars": _HEAD + "**" * 500_000 + "x",
    "labels": _HEAD + "Summary:\n" * 110_000,
    "empty boxes": _HEAD + (BOX_OPEN + BOX_CLOSE) * 33_000,
    "open boxes": _HEAD + BOX_OPEN * 60_000,
    "one word": _HEAD + ". this " + "a" * 1_000_000,
}


@pytest.mark.parametrize("kind", _MEGABYTE)
def test_a_nasty_megabyte_takes_linear_time(kind):
    started = time.process_time()
    parse_annotation(_MEGABYTE[kind])
    assert time.process_time() - started < 2.0  # at most 0.2 s each; what is quadratic takes minutes


def test_thirty_thousand_characters_are_kept_as_written():
    thought = "word " * 6_000
    assert parse_annotation(f"<think>{thought}</think><answer>b</answer>").reasoning == thought.strip()


def test_a_rollout_ends_with_exactly_one_gen_emb():
    assert parse_rollout(training_response("why", "what")).problem == ""
    assert parse_rollout(GOOD).problem == "no_gen_emb"
    assert parse_rollout("<think>a</think><answer>b\n<gen_emb> c").problem == "text_after_gen_emb"


def test_prompts_match_the_papers_templates():
    assert annotation_text(" a cat ") == f"a cat\n\n{ANNOTATION_PROMPT}" and annotation_text("") == ANNOTATION_PROMPT
    assert training_prompt("a cat").startswith("a cat\n<disc_emb>\nRepresent the above input text")
    assert training_response("r", "s") == "<think>r</think><answer>s\n<gen_emb>"
