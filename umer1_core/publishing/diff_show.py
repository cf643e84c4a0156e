"""A difference for people (rich) and for programs (JSON). The number that matters stands first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from umer1_core.publishing.diff import Difference, Kind
from umer1_core.publishing.diff_examples import Example, Judgement
from umer1_core.text import one_line

_KINDS = {
    "only_in_a": "only in A",
    "only_in_b": "only in B",
    "newly_kept": "newly kept",
    "newly_dropped": "newly dropped",
    "answers_changed": "other answers",
    "kept_in_both": "kept as it was",
    "dropped_in_both": "dropped in both",
}
_CHANGED: tuple[Kind, ...] = ("only_in_a", "only_in_b", "newly_kept", "newly_dropped", "answers_changed")
_TEXT = 160  # characters of a text in an example


def difference_json(difference: Difference) -> bytes:
    return orjson.dumps(asdict(difference), option=orjson.OPT_INDENT_2)


def print_difference(difference: Difference, console: Console) -> None:
    """Headline, sources, shards, settings, examples; what did not change is left out."""
    console.print(f"[bold]A[/] {escape(difference.a)}\n[bold]B[/] {escape(difference.b)}", soft_wrap=True)
    console.print(headline(difference), soft_wrap=True)
    if changed := [kind for kind in _CHANGED if difference.total(kind)]:
        console.print(_sources(difference, changed))
    if difference.shards:
        console.print(_shards(difference))
    if difference.settings:
        console.print(_settings(difference))
    for example in difference.examples:
        _print_example(example, console)


def headline(difference: Difference) -> str:
    """One sentence."""
    if not difference.related:
        return "No pair stands in both: the two data sets are unrelated."
    kinds = {kind: difference.total(kind) for kind in _CHANGED}
    said = ", ".join(f"{count:,} {_KINDS[kind]}" for kind, count in kinds.items() if count) or "nothing changed"
    origin = "B was made from A" if difference.descends else "B was not made from A"
    return f"{difference.related:,} pairs in both: {said}. {origin}."


def _sources(difference: Difference, changed: Sequence[Kind]) -> Table:
    """The sources that changed, and the kinds of change that occur."""
    kinds: list[str] = [*changed, "kept_in_both", "dropped_in_both"]
    table = Table(title="Pairs by source, those that changed", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("source", no_wrap=True)
    for kind in kinds:
        table.add_column(_KINDS[kind], justify="right")
    shown = [each for each in difference.sources if any(each.pairs[kind] for kind in changed)]
    listed = {
        "newly dropped for": [_listed(each.reasons) for each in shown],
        "other in the answers": [_listed(each.changed) for each in shown],
    }
    listed = {words: cells for words, cells in listed.items() if any(cells)}
    for words in listed:
        table.add_column(words, overflow="fold")
    for number, each in enumerate(shown):
        counts = [f"{each.pairs[kind]:,}" for kind in kinds]
        table.add_row(escape(each.source), *counts, *(cells[number] for cells in listed.values()))
    return table


def _shards(difference: Difference) -> Table:
    table = Table(title="\nShards", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for words in ("table", "the same in both", "rewritten in B", "only in A"):
        table.add_column(words, justify="left" if words == "table" else "right")
    for each in difference.shards:
        table.add_row(each.table, f"{each.shared:,}", f"{each.rewritten:,}", f"{each.gone:,}")
    return table


def _settings(difference: Difference) -> Table:
    table = Table(title="\nSettings", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for words in ("field", "A", "B"):
        table.add_column(words)
    for each in difference.settings:
        table.add_row(escape(each.field), _value(each.a), _value(each.b))
    return table


def _print_example(example: Example, console: Console) -> None:
    console.print(f"\n[bold]{_KINDS[example.kind]}[/]  {escape(example.source)}  {example.pair_id[:8]}")
    for role, text, media in (
        ("query", example.query, example.query_media),
        ("target", example.target, example.target_media),
    ):
        console.print(
            f"  {role:<7}{escape(' '.join([*(f'[{where}]' for where in media), one_line(text, _TEXT)]))}",
            soft_wrap=True,
        )
    for name, said in (("A", example.before), ("B", example.after)):
        console.print(f"  {name:<7}{escape(_judgement(said))}", soft_wrap=True)


def _judgement(said: Judgement | None) -> str:
    if said is None:
        return "does not have it"
    if not said.kept:
        return f"dropped: {', '.join(said.reasons)}"
    return f"kept: {one_line(said.query_summary, _TEXT)} → {one_line(said.target_summary, _TEXT)}"


def _listed(counts: dict[str, int]) -> str:
    return escape(", ".join(f"{name} {count:,}" for name, count in counts.items() if count))


def _value(value: object) -> str:
    return escape("–" if value is None else one_line(orjson.dumps(value).decode(), _TEXT))
