"""Expectations in words: what each demands, and what is said where it is not met."""

from __future__ import annotations

from typing import Any


def demand(kind: str, limits: dict[str, Any]) -> str:
    """`≥ 0.5`, `is 0`, `is there`: what the docs and the table in the UI say of an expectation."""
    low, high = limits.get("min_value"), limits.get("max_value")
    match kind:
        case "expect_column_values_to_be_between" if low is not None and low == high:
            return f"is {number(low)}"
        case "expect_column_values_to_be_between" if low is not None and high is not None:
            return f"{number(low)} to {number(high)}"
        case "expect_column_values_to_be_between":
            return f"≥ {number(low)}" if low is not None else f"≤ {number(high)}"
        case "expect_column_values_to_not_be_null":
            return "is there"
        case "expect_column_values_to_match_regex":
            return "has its form"
        case _ if limits.get("value_set") == [True]:
            return "is true"
    return f"is one of {', '.join(map(str, limits.get('value_set', [])))}"


def complaint(kind: str, limits: dict[str, Any], value: Any) -> str:
    """What is wrong with an observed value, after the name of its column."""
    low, high = limits.get("min_value"), limits.get("max_value")
    match kind:
        case "expect_column_values_to_be_between" if low is not None and low == high:
            return f"is {number(value)}, not {number(low)}"
        case "expect_column_values_to_be_between" if high is not None and value > high:
            return f"{number(value)} is above {number(high)}"
        case "expect_column_values_to_be_between":
            return f"{number(value)} is below {number(low)}"
        case "expect_column_values_to_not_be_null":
            return "is missing"
        case "expect_column_values_to_match_regex":
            return f"does not have its form: {str(value)[:80]!r}"
        case _ if limits.get("value_set") == [True]:
            return "is false: the file is missing or is not the one its entry names"
    return f"{value!r:.80} is not one of {', '.join(map(str, limits.get('value_set', [])))}"


def number(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) and value != int(value) else f"{int(value):,}"
