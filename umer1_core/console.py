"""What a person sees in the terminal: progress by stage while a run is at work, and the summary at its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from umer1_core.scores import ROWS, SCORES, columns
from umer1_core.status import LiveStatus, RunStatus, StageStatus, read_status
from umer1_core.store import Store
from umer1_core.training.outcome import REPORT, grpo_folder, read_finished

_LINE_SECONDS = 10.0
_FRESH_SECONDS = 10.0


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


def progress_bar(console: Console, hidden: bool = False) -> Progress:
    """What is done of what, and how long the rest will take; gone when it ends."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=hidden)


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
    if status.live is not None:
        _print_live(status.live, console)


def _print_live(live: LiveStatus, console: Console) -> None:
    console.print()
    fresh = live.age_s < _FRESH_SECONDS
    when = "annotating" if fresh else f"last seen {duration(live.age_s)} ago"
    console.print(f"{when}: {live_line(live)}", highlight=False, soft_wrap=True)
    outcomes = ", ".join(f"{name} {count:,}" for name, count in live.outcomes.items())
    console.print(f"requests answered: {outcomes or 'none yet'}", highlight=False, soft_wrap=True)
    console.print(_replicas(live.replicas))
    for line in live.stalled:
        console.print(f"[yellow]no answer to[/] {escape(line)}", highlight=False, soft_wrap=True)


def live_line(live: LiveStatus) -> str:
    """`12.3 rows/s, 4,532 tokens/s, 64 in flight, 1,204 queued, about 3 min left`."""
    left = f", about {duration(live.eta_s)} left" if live.eta_s else ""
    rates = f"{live.rows_per_s:,.1f} rows/s, {live.tokens_per_s:,.0f} tokens/s"
    return f"{rates}, {live.in_flight:,} in flight, {live.queued:,} queued{left}"


def _replicas(replicas: Sequence[dict[str, Any]]) -> Table:
    table = Table("server", "state", "in flight", "waiting", "KV", "latency", "tokens/s", "", box=None, pad_edge=False)
    for replica in replicas:
        kv = "" if replica["kv_usage"] is None else f"{replica['kv_usage']:.0%}"
        waiting = "" if replica["waiting"] is None else f"{replica['waiting']:,}"
        table.add_row(
            replica["replica"],
            replica["state"],
            f"{replica['in_flight']}/{replica['limit']}",
            waiting,
            kv,
            f"{replica['latency_s']:.1f} s",
            f"{replica['tokens_per_s']:,.0f}",
            "" if replica["state"] == "serving" else escape(replica["last_error"]),
        )
    return table


def duration(seconds: float) -> str:
    """Two units at most: `45 s`, `12 min`, `3 h 5 min`, `2 d 4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def print_summary(store: Store, console: Console) -> None:
    """Counts by stage, scores and where to look: the last thing a run prints."""
    manifest = store.read_json("manifest.json")
    if manifest is None:
        return
    console.print()
    console.print(_counts(manifest))
    scores = store.read_json(SCORES)
    if scores:
        console.print(scores_table(scores, manifest))
    finished = read_finished(grpo_folder(store))
    if finished is not None and finished.warning:
        console.print(finished.warning, style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Data set  {store.root}  (hash {manifest['data_hash']})", highlight=False, soft_wrap=True)
    if store.local:
        console.print(f"Report    {Path(store.path) / 'report' / 'index.html'}", highlight=False, soft_wrap=True)
    if finished is not None and finished.changed:
        console.print(f"GRPO      {grpo_folder(store) / REPORT}", highlight=False, soft_wrap=True)


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
    table.add_row("tokens", f"{ledger['completion_tokens']:,}", token_line(ledger))
    kept = total("kept")
    table.add_row("pairs kept", f"{kept:,}", f"{kept / max(1, total('pairs')):.1%}")
    table.add_row("cold start", f"{total('cold_start'):,}", "")
    table.add_row("RL", f"{total('rl'):,}", "")
    return table


def token_line(ledger: dict[str, Any]) -> str:
    """What the generated tokens bought. Manifests of the first schema version knew of one kind of waste only."""
    whole, wasted = max(1, ledger["completion_tokens"]), ledger["wasted_tokens"]
    rejected = ledger["outcomes"]["rejected"]["completion_tokens"] if "outcomes" in ledger else wasted
    taken_over = ledger["saved"]["taken_over"]["completion_tokens"] if "saved" in ledger else 0
    parts = [("useful", ledger["useful_tokens"]), ("rejected", rejected), ("retried", wasted - rejected)]
    spent = ", ".join(f"{tokens / whole:.1%} {name}" for name, tokens in parts if tokens or name == "useful")
    saved = [f"{ledger['saved_tokens']:,} more saved"] if ledger["saved_tokens"] else []
    saved += [f"{taken_over:,} taken over"] if taken_over else []
    return "; ".join([spent, *saved])


def scores_table(scores: dict[str, Any], manifest: dict[str, Any]) -> Table:
    """hit@1 of both embeddings and their oracle, against chance, the untrained student and, after GRPO, that of SFT.

    Per source: candidates are the source's targets, and sources are averaged; pooled: all targets of all sources.
    """
    label = " (the miniature's world)" if manifest["recipe"].get("miniature") else ""
    queries, candidates = scores["overall"]["queries"], scores["pooled"]["candidates"]
    title = f"Scores{label}: {queries:,} held-out queries; pooled: {candidates:,} candidates of all sources"
    shown = columns(scores)
    table = Table("hit@1", *(column.name for column in shown), title=title, title_justify="left")
    for name in ROWS:
        table.add_row(name, *(f"{column.hits[name]:.3f}" for column in shown))
    if "dume" in scores:
        table.add_row("DUME, discriminative", f"{scores['dume']['discriminative']:.3f}")
    return table
