"""What publishing made, as pages of Markdown: readable in the Prefect UI without leaving it.

Guarantee: every number is the manifest's own; nothing is counted here and nothing is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from umer1_core.console import token_line

# Columns of the RL table and their words, which are short: the UI cuts wide tables.
_RL_COLUMNS = {
    "asked": "asked",
    "available": "available",
    "outside_sft": "outside",
    "taken": "taken",
    "taken_outside_sft": "taken outside",
    "short_of": "short",
}
_RANK_COLUMNS = {"unranked": "unranked", "outside_band": "outside band"}  # zero everywhere unless ranks are asked for


def funnel_headline(manifest: Mapping[str, Any]) -> str:
    """`4/6 pairs kept (67%)`."""
    pairs, kept = (sum(row[field] for row in manifest["funnel"]) for field in ("pairs", "kept"))
    return f"{kept:,}/{pairs:,} pairs kept ({kept / max(1, pairs):.0%})"


def funnel_markdown(manifest: Mapping[str, Any]) -> str:
    """Where the rows of every source went, then what the generated tokens bought."""
    lines = [
        f"{_title(manifest)}: {funnel_headline(manifest)}",
        "",
        "| source | rows read | not drawn | rejected | pairs | kept | cold start | RL | dropped for |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in manifest["funnel"]:
        counts = [row["read"], row["not_drawn"], sum(row["rejected"].values()), row["pairs"], row["kept"]]
        counts += [row["cold_start"], row["rl"]]
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(row["dropped"].items()))
        lines.append(f"| {row['source']} | {_cells(counts)} | {reasons} |")
    return "\n".join([*lines, "", tokens(manifest)])


def rl_headline(manifest: Mapping[str, Any]) -> str:
    """`6 RL pairs in blocks of 2, 4 outside the cold start`."""
    taken, outside = (sum(row[field] for row in manifest["rl_table"]) for field in ("taken", "taken_outside_sft"))
    return f"{taken:,} RL pairs in blocks of {manifest['rl_block']}, {outside:,} outside the cold start"


def rl_markdown(manifest: Mapping[str, Any]) -> str:
    """What was asked of each source and what it gave; of ranks only where some pair was left out for its rank."""
    table = manifest["rl_table"]
    shown = _RL_COLUMNS | {name: word for name, word in _RANK_COLUMNS.items() if any(row[name] for row in table)}
    lines = [
        f"{_title(manifest)}: {rl_headline(manifest)}",
        "",
        f"| source | modality | {' | '.join(shown.values())} |",
        f"|---|---|{'---:|' * len(shown)}",
    ]
    lines += [f"| {row['source']} | {row['modality']} | {_cells([row[name] for name in shown])} |" for row in table]
    return "\n".join(lines)


def report_markdown(manifest: Mapping[str, Any], path: str, root: str, link: str = "") -> str:
    """Where the report and the card lie. `link`: an address of the report.

    Browsers follow no link from a server's page to a file: without an address the path stands as text.
    """
    what = "The funnel, lengths and a gallery of pairs"
    where = f"[{what}]({link})" if link else f"{what}:"
    return f"{_title(manifest)}\n\n{where}\n\n    {path}\n\nThe card: `{root}/README.md`\n"


def tokens(manifest: Mapping[str, Any]) -> str:
    """`1,204 tokens generated: 83.1% useful, …`."""
    return f"{manifest['ledger']['completion_tokens']:,} tokens generated: {token_line(manifest['ledger'])}"


def _title(manifest: Mapping[str, Any]) -> str:
    return f"# {manifest['name']} v{manifest['version']}"


def _cells(counts: Sequence[int]) -> str:
    return " | ".join(f"{count:,}" for count in counts)
