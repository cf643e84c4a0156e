"""The report of what reinforcement learning changed."""

import math
from itertools import product

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umer1_core.grpo.watch.group import ShownSide
from umer1_core.grpo.watch.report import (
    Example,
    Outcome,
    Retrieval,
    before_after,
    headline,
    report_json,
    report_page,
    sign_test,
)
from umer1_core.template import training_response

BEFORE = {"hit_gen": 0.8, "hit_disc": 0.88, "oracle": 0.9, "hit_gen_image": 0.7, "format": 0.95, "ranking": 0.71}
BEFORE |= {"gap": 0.4, "embedding": 0.3, "completion_tokens": 41.26, "cot_swapped": 0.914, "queries": 240}
AFTER = BEFORE | {"hit_gen": 0.85, "hit_gen_image": 0.68, "gap": 0.45, "completion_tokens": 39.5, "gen_ok": 1.0}


def retrieval(right: bool, margin: float, completion: str = "") -> Retrieval:
    found = ShownSide("a red disc" if right else "a | blue\ndisc", ("b.png",))
    return Retrieval(completion or training_response("It shows a disc.", "a disc"), found, right, margin)


def example(number: int, before: Retrieval, after: Retrieval, modality: str = "image") -> Example:
    query = ShownSide("Which disc?", ("a.png",))
    return Example(f"{number:032x}", "test/caption", modality, query, ShownSide("a red disc", ()), before, after)


def changed(gained: int, lost: int, same: int = 0) -> list[Example]:
    kinds = [(False, True)] * gained + [(True, False)] * lost + [(True, True)] * same
    return [
        example(i, retrieval(b, 0.1 if b else -0.1), retrieval(a, 0.1 + i / 1000 if a else -0.1 - i / 1000))
        for i, (b, a) in enumerate(kinds)
    ]


def test_every_number_of_both_stands_before_and_after_with_its_difference():
    report = before_after(BEFORE, AFTER, changed(3, 1, 20))
    page = report_page(report)
    assert headline(report) == "hit@1, generative: 0.800 → 0.850 (+5.0 points)" and headline(report) in page
    assert "| hit@1, generative, image | 0.700 | 0.680 | -2.0 points |" in page, "what fell is shown too"
    assert (
        "| similarity gap | 0.400 | 0.450 | +0.050 |" in page and "| tokens a completion | 41.3 | 39.5 | -1.8 |" in page
    )
    assert "| cosine after another's reasoning | 0.914 | 0.914 | +0.000 |" in page
    assert "-0.0" not in report_page(before_after(BEFORE, BEFORE | {"gap": BEFORE["gap"] - 1e-6}, []))
    assert "with a generative embedding" not in page, "only one of the two has it"
    for missing in (None, math.nan):
        assert "reasoning" not in report_page(before_after(BEFORE, AFTER | {"cot_swapped": missing}, []))
    assert "3 of 24 queries gained, 1 lost (sign test: p = 0.62)" in page


def test_the_most_helped_and_the_most_hurt_are_shown_whichever_is_more():
    report = before_after(BEFORE, AFTER, changed(30, 15, 10))
    assert (report.gained, report.lost, len(report.helped), len(report.hurt)) == (30, 15, 10, 10)
    assert all(e.after.right and not e.before.right for e in report.helped)
    assert all(e.before.right and not e.after.right for e in report.hurt)
    margins = [e.after.margin for e in report.helped]
    assert margins == sorted(margins, reverse=True)
    few = before_after(BEFORE, AFTER, changed(2, 0, 1), shown=5)
    assert len(few.helped) == 3 and not few.hurt and "## Hurt most\n\nNone." in report_page(few)


def test_the_page_says_which_model_it_is_of_and_where_a_better_one_was():
    def told(outcome: Outcome) -> str:
        return report_page(before_after(BEFORE, AFTER, [], outcome)).split("\n\n")[2]

    last = told(Outcome(1_200, 1_200, 0.87))
    assert last.startswith("The model has learned for 1,200 steps. No evaluation was better than its own (0.870")
    assert "The best evaluation was at step 50 (0.870" in told(Outcome(1_200, 50, 0.87))
    stopped = told(Outcome(100, 50, 0.87, "Step 130: tokens is 3*."))
    assert stopped.startswith("A guard ended the training: Step 130: tokens is 3&#42;. The model is that of step 100.")


def test_nothing_changed_helps_and_hurts_nobody():
    same = [example(i, retrieval(True, 0.2), retrieval(True, 0.2)) for i in range(5)]
    report = before_after(BEFORE, BEFORE, same)
    assert (report.gained, report.lost, report.chance, report.helped, report.hurt) == (0, 0, 1.0, (), ())
    assert "+0.0 points" in report_page(report)


def test_the_order_of_the_queries_changes_nothing():
    queries = changed(5, 5, 5)
    assert before_after(BEFORE, AFTER, queries) == before_after(BEFORE, AFTER, queries[::-1])


def test_an_example_shows_both_answers_and_what_they_found():
    good = training_response("It is *red*.", "a red disc")
    page = report_page(
        before_after(BEFORE, AFTER, [example(1, retrieval(False, math.nan, "<think>no"), retrieval(True, 0.25, good))])
    )
    assert "### ✗ → ✓ test/caption, image, 00000000" in page and "**Target** a red disc" in page
    assert "| reasoning | &lt;think&gt;no | It is &#42;red&#42;. |" in page
    assert "| answer | (no embedding: the completion has no end) | a red disc |" in page
    assert "| margin | – | +0.250 |" in page and "nan" not in page


def test_a_query_without_an_embedding_found_nothing():
    lost = Retrieval("<think>no", None, False, math.nan)
    page = report_page(before_after(BEFORE, AFTER, [example(1, retrieval(True, 0.2), lost)]))
    assert "| retrieved | ✓ a red disc | ✗ – |" in page.replace("&#91;b.png&#93; ", "")


def test_what_a_model_writes_breaks_no_table():
    loop = "| a\n## <script> [x](y) `" * 400
    report = before_after(BEFORE, AFTER, [example(1, retrieval(False, -1.0, loop), retrieval(True, 1.0, loop))])
    for line in report_page(report).splitlines():
        assert "<script>" not in line and len(line) < 8_000
        assert line.count("|") in (0, 4, 5), line


def test_a_margin_that_is_no_number_is_no_gain():
    assert example(1, retrieval(False, math.nan), retrieval(False, 0.3)).gain == (0, 0.0)
    assert example(1, retrieval(True, 0.3), retrieval(False, math.nan)).gain == (-1, 0.0)


def test_json_holds_all_and_is_json():
    report = before_after(BEFORE, AFTER, [example(1, retrieval(False, math.nan), retrieval(True, 0.3))])
    found = orjson.loads(report_json(report))
    assert found["changes"][0] == {
        "key": "hit_gen",
        "words": "hit@1, generative",
        "share": True,
        "before": 0.8,
        "after": 0.85,
        "difference": pytest.approx(0.05),
    }
    assert found["helped"][0]["before"]["margin"] is None and found["queries"] == 1


@given(st.integers(0, 9), st.integers(0, 9))
def test_the_sign_test_is_the_count_over_all_falls_of_the_coins(gained, lost):
    falls = [sum(coins) for coins in product((0, 1), repeat=min(gained + lost, 12))]
    if gained + lost > 12:
        return
    extreme = abs(gained - lost)
    expected = sum(abs(2 * heads - gained - lost) >= extreme for heads in falls) / len(falls)
    assert sign_test(gained, lost) == pytest.approx(expected)
