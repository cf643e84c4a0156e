"""The strict form, on the ids of a real tokenizer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.student import small_student
from umer1_core.grpo.format import FORMAT_PROBLEMS, format_problem
from umer1_core.template import DISC_EMB, GEN_EMB, training_response

GOOD = training_response("It is red.", "red")


@pytest.fixture(scope="module")
def ids():
    return small_student().ids


def encode(text: str) -> list[int]:
    return small_student().processor.tokenizer.encode(text, add_special_tokens=False)


def decode(ids) -> str:
    return small_student().processor.tokenizer.decode(ids)


def problem(completion: list[int]) -> str:
    return format_problem(completion, small_student().ids, decode)


def test_what_the_student_is_trained_to_write_is_good(ids):
    assert encode(GOOD)[-1] == ids.gen
    assert problem([*encode(GOOD), ids.end_of_turn]) == ""
    assert problem([*encode(GOOD.replace("\n", "</answer>\n")), ids.end_of_turn]) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD.replace(GEN_EMB, ""), "no_gen_emb"),
        (GOOD + GEN_EMB, "several_gen_emb"),
        (GOOD.replace("red.", f"red.{GEN_EMB}"), "several_gen_emb"),
        (GOOD + "\n", "text_after_gen_emb"),
        (GOOD + " red", "text_after_gen_emb"),
        (GOOD.replace("red.", f"red.{DISC_EMB}"), "student_tags"),
        (DISC_EMB, "student_tags"),
        ("A disc. " + GOOD, "no_think"),
        (GEN_EMB, "empty_completion"),
        (GOOD.replace("</think>", ""), "unclosed_think"),
        (GOOD.replace("<answer>", ""), "no_answer"),
        (GOOD.replace("</think>", "</think> so "), "text_outside_tags"),
        (GOOD.replace("<think>", "<think><think>"), "nested_tags"),
        (GOOD.replace("It is red.", ""), "empty_reasoning"),
        (GOOD.replace("red\n", "\n"), "empty_summary"),
    ],
)
def test_every_deviation_is_named(ids, text, expected):
    assert problem([*encode(text), ids.end_of_turn]) == expected


def test_a_rollout_without_an_end_of_its_turn_was_cut(ids):
    assert problem(encode(GOOD)) == "truncated"
    assert problem(encode(GOOD)[:3]) == "truncated"


def test_nothing_stands_after_the_end_of_the_turn(ids):
    turn = [*encode(GOOD), ids.end_of_turn]
    for rest in (ids.end_of_turn, ids.pad, ids.gen):
        assert problem([*turn, rest]) == "text_after_turn"


def test_an_empty_rollout_is_a_problem_and_no_crash(ids):
    assert problem([]) == "empty_completion"
    assert problem([ids.end_of_turn]) == "empty_completion"
    assert problem([ids.end_of_turn, *encode(GOOD)]) == "text_after_turn"


def test_the_letters_of_a_tag_in_other_tokens_are_not_the_tag(ids):
    spelled = encode("<gen") + encode("_emb>")
    assert ids.gen not in spelled
    assert decode(spelled) == GEN_EMB
    without = encode(GOOD.replace(GEN_EMB, ""))
    assert problem([*without, *spelled, ids.end_of_turn]) == "no_gen_emb"
    assert problem([*encode("<think>a"), *spelled, *encode(GOOD)[1:], ids.end_of_turn]) == "text_after_gen_emb"
    other = encode("<disc") + encode("_emb>")
    assert problem([*encode("<think>a"), *other, *encode(GOOD)[1:], ids.end_of_turn]) == "student_tags"


@settings(deadline=None)
@given(st.data())
def test_any_ids_have_a_known_verdict_and_one_change_of_a_tag_is_never_good(data):
    ids, tokenizer = small_student().ids, small_student().processor.tokenizer
    assert problem(data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=12))) in ("", *FORMAT_PROBLEMS)
    turn = [*encode(GOOD), ids.end_of_turn]
    tags = [place for place, token in enumerate(turn) if token in (ids.gen, ids.end_of_turn) or turn.index(token) == 0]
    place = data.draw(st.sampled_from(tags))
    other = data.draw(st.integers(0, len(tokenizer) - 1).filter(lambda token: token != turn[place]))
    assert problem([*turn[:place], other, *turn[place + 1 :]]) in FORMAT_PROBLEMS
    assert problem([*turn[:place], *turn[place + 1 :]]) in FORMAT_PROBLEMS
