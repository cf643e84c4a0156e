"""What a person sees of a pilot: examples first, then what was dropped, then what the whole recipe would take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from umer1_core.errors import safe_url

_TEXT, _REASONING = 400, 1_200  # characters of a sample
_HOURS_A_DAY = 48  # above, hours are said as days


def print_pilot(report: dict[str, Any], folder: str, console: Console) -> None:
    for sample in report["samples"]:
        _print_sample(sample, console)
    console.print(sources_table(report))
    console.print()
    for title, counts in (("Dropped sides", report["reasons"]), ("Rejected rows", report["rejected"])):
        if counts:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
            console.print(f"[bold]{title}[/]  {reasons}", soft_wrap=True)
    console.print(f"[bold]Measured[/]  {_measured(report['pilot'])}", soft_wrap=True)
    console.print()
    console.print(projection_table(report))
    for note in report["notes"]:
        console.print(f"[dim]· {escape(note)}[/]")
    console.print(f"Report    {folder}/report.json", soft_wrap=True)


def _measured(pilot: dict[str, Any]) -> str:
    return (
        f"{pilot['sides']:,} sides in {pilot['seconds']:.0f} s: {pilot['tokens_per_s']:,.0f} tokens/s, "
        f"{pilot['sides_per_s']:.1f} sides/s, {pilot['requests']:,} requests, "
        f"{pilot['kept'] / pilot['sides']:.1%} of the sides kept"
    )


def sources_table(report: dict[str, Any]) -> Table:
    """Estimates of the whole left, what the pilot saw right."""
    table = Table("source", "pairs", "sides", "seen", "kept", "tokens a side", box=None, pad_edge=False)
    table.title, table.title_justify = "Sources: pairs and sides of the whole, then what the pilot saw", "left"
    for column in table.columns[1:]:
        column.justify = "right"
    for row in report["sources"]:
        kept = f"{row['pilot_kept']:,}" if row["pilot_sides"] else ""
        tokens = f"{row['prompt_tokens']:,.0f} + {row['completion_tokens']:,.0f}" if row["pilot_sides"] else ""
        counts = (f"{row[name]:,}" for name in ("pairs", "sides", "pilot_sides"))
        table.add_row(escape(row["source"]), *counts, kept, tokens)
    return table


def projection_table(report: dict[str, Any]) -> Table:
    projection, gpus = report["projection"], report["pilot"]["gpus"]
    on = "this machine" if report["pilot"]["embedded"] else f"{gpus:,} GPU{'s' if gpus > 1 else ''}"
    table = Table(
        "whole recipe", "about", "range", title=f"{report['name']}: the whole recipe on {on}", title_justify="left"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("pairs", f"{projection['pairs']:,}", "")
    table.add_row("distinct sides", f"{projection['sides']:,}", "at most")
    if projection["completions"] != projection["sides"]:
        table.add_row("completions", f"{projection['completions']:,}", "at most")
    rows: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("prompt tokens", "prompt_tokens", counted),
        ("completion tokens", "completion_tokens", counted),
        ("time", "wall_hours", lasting),
        ("GPU-hours", "gpu_hours", counted),
        ("pairs kept", "pairs_kept", counted),
    )
    for label, name, form in rows:
        if name == "gpu_hours" and report["pilot"]["embedded"]:
            continue
        estimate = projection[name]
        table.add_row(label, form(estimate["value"]), f"{form(estimate['low'])} – {form(estimate['high'])}")
    return table


def counted(number: float) -> str:
    """`3.21 B`, `12.4 M`, `8,300`, `2.4`: as many digits as an estimate deserves."""
    for size, unit in ((1e9, " B"), (1e6, " M")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def lasting(hours: float) -> str:
    if hours >= _HOURS_A_DAY:
        return f"{hours / 24:.1f} days"
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def _print_sample(sample: dict[str, Any], console: Console) -> None:
    verdict = "[green]kept[/]" if sample["kept"] else f"[red]dropped[/] {escape(', '.join(sample['reasons']))}"
    console.rule(f"{escape(sample['source'])}  {verdict}", align="left")
    console.print(f"[bold]side[/]       {escape(_cut(sample['text'], _TEXT))}")
    for place in sample["media"]:
        console.print(f"[bold]media[/]      {escape(safe_url(place))}", soft_wrap=True)
    if sample["summary"]:
        console.print(f"[bold]reasoning[/]  {escape(_cut(sample['reasoning'], _REASONING))}")
        console.print(f"[bold]summary[/]    {escape(sample['summary'])}")
    else:  # the parser found no whole form: as the model wrote it
        console.print(f"[bold]completion[/] {escape(_cut(sample['completion'], _REASONING))}")
    console.print()


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[:size]}… ({len(text):,} characters)"
