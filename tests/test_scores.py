"""The columns of the scores."""

from umer1_core.scores import ROWS, columns

HITS = dict.fromkeys(ROWS, 0.5)


def test_without_grpo_the_trained_student_stands_beside_the_untrained_one() -> None:
    scores = {"overall": HITS, "untrained": HITS, "pooled": HITS, "dume": HITS, "sources": {}}
    assert [column.name for column in columns(scores)] == ["trained", "untrained", "trained, pooled"]


def test_after_grpo_each_number_stands_beside_that_of_before() -> None:
    scores = {part: {**HITS, "generative": i} for i, part in enumerate(("overall", "sft", "pooled", "sft_pooled"))}
    named = {column.name: column.hits["generative"] for column in columns(scores)}
    assert named == {"GRPO": 0, "SFT": 1, "GRPO, pooled": 2, "SFT, pooled": 3}


def test_nothing_scored_has_no_columns() -> None:
    assert columns({}) == []
