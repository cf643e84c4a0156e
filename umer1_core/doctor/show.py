"""What a person sees of an examination: a table of the sources, then findings, the worst first."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from umer1_core.doctor.run import Examination
from umer1_core.doctor.source import SourceFindings
from umer1_core.doctor.verdicts import Verdict
from umer1_core.pilot.show import counted

_ORDER = ("error", "warning", "ok")
_ABOUT_WIDTH = 32
_MARKS = {"error": "[red]error[/]", "warning": "[yellow]warning[/]", "ok": "[green]ok[/]"}


def print_examination(examination: Examination, console: Console) -> None:
    if examination.sources:
        console.print(_table(examination))
        console.print(_legend(examination), style="dim")
        console.print()
    console.print(_findings(examination.verdicts))
    counts = {level: sum(each.level == level for each in examination.verdicts) for level in _ORDER}
    console.print()
    console.print(f"{counts['error']} errors, {counts['warning']} warnings", style="bold")


def _table(examination: Examination) -> Table:
    """Narrow enough for 80 columns, but for the notes, which are there only where a source has some."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), title=f"{examination.name}: what the sources hold")
    table.title_justify = "left"
    noted = any(each.notes for each in examination.sources)
    table.add_column("source", no_wrap=True)
    for name in ("rows", "pairs", "refused", "size", "targets", "tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    if noted:
        table.add_column("notes", overflow="fold")
    for each in examination.sources:
        rows = "?" if each.rows is None else f"{each.rows:,}"
        refused = sum(each.refused.values())
        notes = [escape(", ".join(f"{name} {count}" for name, count in list(each.notes.items())[:2]))]
        table.add_row(
            escape(each.source),
            f"[yellow]{rows}[/]" if each.disagrees else rows,
            "?" if each.pairs is None else f"{each.pairs:,}",
            "-" if each.unopened else f"[yellow]{refused:,}[/]" if refused else "0",
            _size(each),
            f"{each.distinct_targets:.0%}",
            f"{each.query_tokens:,.0f}+{each.target_tokens:,.0f}" if each.opened else "",
            *(notes if noted else []),
        )
    return table


def _legend(examination: Examination) -> str:
    tokens = sum((each.query_tokens + each.target_tokens) * (each.pairs or 0) for each in examination.sources)
    pairs = sum(each.pairs or 0 for each in examination.sources)
    whole = (
        f" Whole recipe: {pairs:,} pairs, {counted(tokens)} prompt tokens without saving equal sides." if pairs else ""
    )
    return (
        "size: the median of the media opened. targets: distinct ones among the rows read. "
        f"tokens: about, of a query and a target, with the annotation prompt.{whole}"
    )


def _size(each: SourceFindings) -> str:
    if each.clips:
        frames = each.clip_frames[1]
        return f"{frames}×" + "×".join(map(str, each.clips[1])) if frames else "×".join(map(str, each.clips[1]))
    return "×".join(map(str, each.images[1])) if each.images else ""


def _findings(verdicts: Sequence[Verdict]) -> Table:
    """A line each, the worst first, and under it what to do."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(max_width=_ABOUT_WIDTH, overflow="fold")
    table.add_column(overflow="fold")
    for level in _ORDER:
        for verdict in verdicts:
            if verdict.level == level:
                remedy = f"\n[dim]→ {escape(verdict.remedy)}[/]" if verdict.remedy and level != "ok" else ""
                table.add_row(_MARKS[level], escape(verdict.about), escape(verdict.message) + remedy)
    return table
