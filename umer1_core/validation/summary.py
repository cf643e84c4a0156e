"""A validation as one page of Markdown: readable in the Prefect UI without leaving it."""

from __future__ import annotations

from umer1_core.text import markdown_text
from umer1_core.validation.docs import failing_first
from umer1_core.validation.expectations import Check
from umer1_core.validation.validate import ValidationOutcome

_FAILURES_SHOWN = 200


def headline(outcome: ValidationOutcome) -> str:
    """`valid: 128 expectations hold` or `3 of 128 expectations fail`."""
    failing = sum(1 for check in outcome.checks if check.failures)
    if not failing:
        return f"valid: {outcome.expectations} expectations hold"
    return f"{failing} of {outcome.expectations} expectations fail"


def to_markdown(outcome: ValidationOutcome, data_hash: str, link: str = "") -> str:
    """What fails and where, then the groups, then every expectation. `link`: an address of the Data Docs."""
    docs = f"[Data Docs]({link})" if link else f"Data Docs: `{outcome.docs}`"
    parts = [f"# {headline(outcome)}", f"Data set `{data_hash}` · {docs}"]
    if outcome.failures:
        parts += ["## What fails", _failures(outcome)]
    parts += ["## By group", _groups(outcome.checks), "## Every expectation", _expectations(outcome.checks)]
    return "\n\n".join(parts) + "\n"


def _failures(outcome: ValidationOutcome) -> str:
    shown = outcome.failures[:_FAILURES_SHOWN]
    # A list and not a table: the UI cuts what is wider than a table's cell.
    lines = [f"- {markdown_text(each.sentence)}" for each in shown]
    if len(shown) < len(outcome.failures):
        lines.append(f"- {len(outcome.failures) - len(shown):,} more: see the Data Docs")
    return "\n".join(lines)


def _groups(checks: tuple[Check, ...]) -> str:
    groups: dict[str, list[Check]] = {}
    for check in failing_first(checks):
        groups.setdefault(check.group, []).append(check)
    rows = [
        f"| {name} | {found[0].places:,} | {len(found)} | {_result(sum(bool(c.failures) for c in found))} |"
        for name, found in groups.items()
    ]
    return "\n".join(["| group | rows | expectations | result |", "|---|---:|---:|---|", *rows])


def _expectations(checks: tuple[Check, ...]) -> str:
    rows = [
        f"| {check.group} | `{check.column}` | {markdown_text(check.demand)} | {check.why} "
        f"| {_result(len(check.failures) and 1)} |"
        for check in failing_first(checks)
    ]
    return "\n".join(["| group | value | expected | because | result |", "|---|---|---|---|---|", *rows])


def _result(failing: int) -> str:
    return f"✗ {failing} fail" if failing > 1 else "✗ fails" if failing else "✓"
