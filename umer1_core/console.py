"""What a person sees in the terminal: progress by stage while a run is at work, and the summary at its end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from umer1_core.status import RunStatus, StageStatus, read_status
from umer1_core.store import Store

_LINE_SECONDS = 10.0


class StatusPrinter:
    """On a terminal a bar for the stage at work; otherwise a line when a stage ends and every ten seconds."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.finished: set[tuple[str, str]] = set()
        self.last_line, self.last_time = "", 0.0
        self.bar = progress_bar(console)
        self.bar_task = self.bar.add_task("starting", total=None)
        if console.is_terminal:
            self.bar.start()

    def show(self, store: Store) -> None:
        status = read_status(store)
        current = self._print_finished(status)
        if current is None:
            return
        line = stage_line(current)
        if self.console.is_terminal:
            # A stage of one step has no share to show: its bar only moves.
            total = current.total if current.total > 1 else None
            self.bar.update(self.bar_task, description=current.stage, completed=current.done, total=total)
        elif current.total > 1 and line != self.last_line and time.monotonic() - self.last_time > _LINE_SECONDS:
            self.console.print(line, highlight=False, soft_wrap=True)
            self.last_line, self.last_time = line, time.monotonic()

    def stop(self) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def _print_finished(self, status: RunStatus) -> StageStatus | None:
        for stage in status.stages:
            if not stage.finished:
                return stage
            key = (status.root, stage.stage)
            if key not in self.finished:
                self.finished.add(key)
                self.console.print(f"[green]✓[/] {stage_line(stage)}", highlight=False, soft_wrap=True)
        return None


def progress_bar(console: Console) -> Progress:
    """What is done of what, and how long the rest will take; gone when it ends."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def stage_line(stage: StageStatus) -> str:
    """`annotation   1,204/3,210 sides (38%)`."""
    share = f" ({stage.done / stage.total:.0%})" if stage.total else ""
    total = f"{stage.total:,}" if stage.total else "?"
    note = f"  {stage.note}" if stage.note else ""
    return f"{stage.stage:<11} {stage.done:,}/{total} {stage.unit}{share}{note}"


def print_status(status: RunStatus, console: Console) -> None:
    """The table behind `umer1 status`."""
    at_work = "at work" if status.at_work else "not running"
    console.print(f"[bold]{status.root}[/]: {at_work}", highlight=False)
    table = Table("stage", "done", "", box=None, pad_edge=False)
    for stage in status.stages:
        total = f"{stage.total:,}" if stage.total else "?"
        mark = "[green]✓[/] " if stage.finished else "  "
        table.add_row(mark + stage.stage, f"{stage.done:,}/{total} {stage.unit}", stage.note)
    console.print(table)


def print_summary(store: Store, console: Console) -> None:
    """Counts by stage, scores and where to look: the last thing a run prints."""
    manifest = store.read_json("manifest.json")
    if manifest is None:
        return
    console.print()
    console.print(_counts(manifest))
    scores = store.read_json("scores.json")
    if scores:
        console.print(scores_table(scores, manifest))
    console.print(f"Data set  {store.root}  (hash {manifest['data_hash']})", highlight=False, soft_wrap=True)
    if store.local:
        console.print(f"Report    {Path(store.path) / 'report' / 'index.html'}", highlight=False, soft_wrap=True)


def _counts(manifest: dict[str, Any]) -> Table:
    table = Table("stage", "count", "", title=f"{manifest['name']} v{manifest['version']}", title_justify="left")
    table.columns[1].justify = "right"
    funnel, ledger = manifest["funnel"], manifest["ledger"]

    def total(field: str) -> int:
        return sum(row[field] for row in funnel)

    rejected = sum(sum(row["rejected"].values()) for row in funnel)
    table.add_row("rows read", f"{total('read'):,}", f"{total('not_drawn'):,} not drawn, {rejected:,} rejected")
    table.add_row("pairs", f"{total('pairs'):,}", f"from {len(funnel)} sources")
    table.add_row("sides", f"{ledger['sides']:,}", f"{ledger['saved_generations']:,} generations saved by equal sides")
    table.add_row("annotated", f"{ledger['annotated']:,}", f"{ledger['failed']:,} failed")
    kept = total("kept")
    table.add_row("pairs kept", f"{kept:,}", f"{kept / max(1, total('pairs')):.1%}")
    table.add_row("cold start", f"{total('cold_start'):,}", "")
    table.add_row("RL", f"{total('rl'):,}", "")
    return table


def scores_table(scores: dict[str, Any], manifest: dict[str, Any]) -> Table:
    """hit@1 of both embeddings and their oracle, against chance and the untrained student.

    Per source: candidates are the source's targets, and sources are averaged; pooled: all targets of all sources.
    """
    label = " (the miniature's world)" if manifest["recipe"].get("miniature") else ""
    queries, candidates = scores["overall"]["queries"], scores["pooled"]["candidates"]
    title = f"Scores{label}: {queries:,} held-out queries; pooled: {candidates:,} candidates of all sources"
    table = Table("hit@1", "trained", "untrained", "trained, pooled", title=title, title_justify="left")
    for name in ("generative", "discriminative", "oracle", "chance"):
        table.add_row(name, *(f"{scores[part][name]:.3f}" for part in ("overall", "untrained", "pooled")))
    return table
