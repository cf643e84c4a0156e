"""What the terminal says of a data set."""

from typing import Any

from umer1_core.console import token_line

OLD: dict[str, Any] = {"completion_tokens": 1_000, "useful_tokens": 700, "wasted_tokens": 300, "saved_tokens": 2_500}


def test_the_token_line_tells_kinds_of_waste_and_savings_apart() -> None:
    outcomes = {"rejected": {"completion_tokens": 250}, "cut": {"completion_tokens": 50}}
    saved = {"taken_over": {"completion_tokens": 400}}
    line = token_line(OLD | {"outcomes": outcomes, "saved": saved})
    assert line == "70.0% useful, 25.0% rejected, 5.0% retried; 2,500 more saved; 400 taken over"


def test_the_token_line_is_written_from_a_manifest_of_the_first_schema_version_too() -> None:
    assert token_line(OLD) == "70.0% useful, 30.0% rejected; 2,500 more saved"


def test_nothing_generated_is_no_division_by_zero() -> None:
    assert token_line(dict.fromkeys(OLD, 0)) == "0.0% useful"
