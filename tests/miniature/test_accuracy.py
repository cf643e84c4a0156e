"""The measure itself: what counts as true, and what does not."""

from __future__ import annotations

from umer1_core.miniature.accuracy import Truth, attribute_accuracy, common_in_order

RED_CIRCLE = Truth("image", ("large", "red", "circle", "top left"))


def _reply(summary: str) -> str:
    return f"<think>I look.</think>\n<answer>{summary}</answer>"


def test_a_right_answer_counts_in_full() -> None:
    found = attribute_accuracy([_reply("large red circle at the top left")], [RED_CIRCLE])["image"]
    assert (found.precision, found.recall, found.form, found.whole) == (1.0, 1.0, 1.0, 1.0)


def test_one_wrong_attribute_of_four_costs_a_quarter() -> None:
    found = attribute_accuracy([_reply("large blue circle at the top left")], [RED_CIRCLE])["all"]
    assert (found.precision, found.whole) == (0.75, 0.0)


def test_right_words_on_the_wrong_things_do_not_count() -> None:
    truth = Truth("image", ("red", "circle", "blue", "star"))
    swapped = attribute_accuracy([_reply("blue circle and red star")], [truth])["image"]
    assert swapped.true == 2


def test_a_broken_form_counts_as_a_side_and_nothing_else() -> None:
    found = attribute_accuracy(["large red circle at the top left"], [RED_CIRCLE])["image"]
    assert (found.sides, found.well_formed, found.named) == (1, 0, 0)


def test_the_longest_common_subsequence_keeps_order() -> None:
    assert common_in_order("abcd", "acbd") == 3
    assert common_in_order("", "abc") == 0
