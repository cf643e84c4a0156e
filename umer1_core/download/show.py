"""What a person sees of a download: a line a unit, then what disagrees."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from umer1_core.download.counts import RowCount
from umer1_core.download.run import Downloaded, Plan
from umer1_core.upstream import ROUNDED


def print_plan(plans: list[Plan], console: Console) -> None:
    """Of a dry run: what would be fetched, and into which folders."""
    console.print(_table(plans, {}))
    missing = {(file.repo, file.path, plan.want.root): file.size for plan in plans for file in plan.missing}
    console.print(f"To fetch: {len(missing):,} files, {size(sum(missing.values()))}.")
    for root in dict.fromkeys(plan.want.root for plan in plans):
        console.print(f"Into      {escape(root) or 'the cache of the hub'}", soft_wrap=True)


def print_downloaded(downloaded: Downloaded, console: Console) -> None:
    """Fetched files and rows by unit; counts that disagree with the published ones, each with what to do."""
    console.print(_table(list(downloaded.plans), {count.unit: count for count in downloaded.counts}))
    console.print(f"Fetched {size(downloaded.fetched_bytes)}; everything else was there.")
    for count in downloaded.disagreeing:
        console.print(
            f"[yellow]{escape(count.unit)} has {count.rows:,} rows, published are {count.expected} "
            f"(within {ROUNDED:.0%} where rounded).[/] Upstream may have changed; `umer1 doctor` looks at the rows.",
            soft_wrap=True,
        )


def size(count: float) -> str:
    """`9.3 GB`, `266 MB`, `12 kB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:,.3g} {name}" if count < 1e3 * unit else f"{count / unit:,.0f} {name}"
    return f"{count / 1e3:,.0f} kB"


def _table(plans: list[Plan], counts: dict[str, RowCount]) -> Table:
    table = Table("source", "files", "there", "size", "rows", "published", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for plan in plans:
        count = counts.get(plan.want.unit)
        rows = "" if count is None else f"{count.rows:,}" if count.agrees else f"[yellow]{count.rows:,}[/]"
        files, there = len(plan.files), "-" if not plan.want.root else f"{len(plan.there):,}"
        table.add_row(
            escape(plan.want.unit), f"{files:,}", there, size(plan.bytes), rows, count.expected if count else ""
        )
    return table
