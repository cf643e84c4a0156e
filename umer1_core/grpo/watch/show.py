"""A group of rollouts for people (rich in a terminal, plain lines in a pipe) and for programs (JSON)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

import orjson
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from umer1_core.grpo.watch.group import ShownGroup, ShownNeighbour, ShownRollout, ShownSide, parsed_text

_LINE = 140  # characters of a neighbour's text
_PAIR = 8  # digits of a pair's name
_WIDTH = 120


def group_json(group: ShownGroup) -> bytes:
    """All of it; a rollout is its record, with what is known of its neighbours."""
    shown = [asdict(r.record) | {"nearest": [asdict(n) for n in r.nearest]} for r in group.rollouts]
    return orjson.dumps(asdict(group) | {"rollouts": shown}, option=orjson.OPT_INDENT_2)


def print_group(group: ShownGroup, console: Console) -> None:
    """Headline, the side and what it should be nearest to, then the rollouts, best first, equal texts once."""
    terminal = console.is_terminal
    for line in _head(group):
        console.print(line, soft_wrap=not terminal)
    console.print()
    other = "target" if group.side == "query" else "query"
    for name, side in ((group.side, group.own), (other, group.other)):
        _print_named(name, _side_text(side), console)
    for alike in _by_text(group.rollouts):
        rollout = alike[0]
        console.print()
        if terminal:
            console.print(_panel(alike), width=min(console.width, _WIDTH))
        else:
            console.print(Text(f"{_title(alike)}  {_components(rollout)}"), soft_wrap=True)
            for said in (*_said(rollout), *(_neighbour_line(n) for n in rollout.nearest)):
                console.print(Text("  ") + said, soft_wrap=True)
    console.print()
    console.print(Text(_elsewhere(group), style="dim"), soft_wrap=not terminal)


def _by_text(rollouts: Sequence[ShownRollout]) -> list[list[ShownRollout]]:
    """Rollouts with one text together, where the first of them stood."""
    found: dict[str, list[ShownRollout]] = {}
    for rollout in rollouts:
        found.setdefault(rollout.record.text, []).append(rollout)
    return list(found.values())


def _head(group: ShownGroup) -> Iterable[Text]:
    yield Text.assemble(
        (f"{group.side} ", "bold"),
        (group.pair_id, "bold"),
        f"  {group.source}, {group.modality}; step {group.step:,}, {len(group.rollouts)} rollouts",
    )
    hits = sum(rollout.record.hit for rollout in group.rollouts)
    means = {
        "format": group.mean(lambda r: r.format),
        "ranking": group.mean(lambda r: r.ranking),
        "gap": group.mean(lambda r: r.gap),
    }
    parts = "  ".join(f"{name} {mean:.2f}" for name, mean in means.items())
    yield Text.assemble(
        (f"reward {group.mean(lambda r: r.reward):.2f} ± {group.spread:.2f}", "bold"),
        f"  {parts}  nearest group right {hits} of {len(group.rollouts)}",
    )


def _elsewhere(group: ShownGroup) -> str:
    other = "target" if group.side == "query" else "query"
    first, last = group.steps
    return (
        f"One of {group.groups:,} groups of step {group.step:,}; steps {first:,} to {last:,}. "
        f"The other side: --step {group.step} --pair {group.pair_id[:_PAIR]} --side {other}"
    )


def _print_named(name: str, text: Text, console: Console) -> None:
    if not console.is_terminal:
        console.print(Text(f"{name:<8}") + text, soft_wrap=True)
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row(Text(f"{name:<6}", style="bold cyan"), text)
    console.print(table, width=min(console.width, _WIDTH))


def _panel(alike: Sequence[ShownRollout]) -> Panel:
    rollout = alike[0]
    record = rollout.record
    style = "red" if record.problem else "green" if record.hit else "yellow"
    inside: list[RenderableType] = list(_said(rollout))
    if rollout.nearest:
        table = Table.grid(padding=(0, 1, 0, 0))
        for neighbour in rollout.nearest:
            table.add_row(*_neighbour_cells(neighbour))
        inside.append(Padding(table, (1, 0, 0, 0)))
    return Panel(
        Group(*inside),
        title=Text(_title(alike), style="bold"),
        subtitle=Text(_components(rollout)),
        title_align="left",
        subtitle_align="left",
        border_style=style,
    )


def _title(alike: Sequence[ShownRollout]) -> str:
    """`rollout 3  reward 1.62  advantage +0.84`; of equal texts `rollouts 0, 3, 5` and the first one's numbers."""
    record = alike[0].record
    numbers = ", ".join(str(number) for number in sorted(rollout.record.rollout for rollout in alike))
    return f"rollout{'s' * (len(alike) > 1)} {numbers}  reward {record.reward:.2f}  advantage {record.advantage:+.2f}"


def _components(rollout: ShownRollout) -> str:
    """`format 1  ranking 0.88  gap 0.71  83 tokens`."""
    record = rollout.record
    parts = f"format {record.format:g}  ranking {record.ranking:.2f}  gap {record.gap:.2f}"
    return f"{parts}  {record.tokens:,} tokens{'' if record.ended else ', cut'}"


def _said(rollout: ShownRollout) -> tuple[Text, ...]:
    """The reasoning and the answer of a rollout in good form; otherwise what is wrong, and all that was written."""
    record = rollout.record
    if record.problem:
        return Text(record.problem, style="red"), Text(_one_line(record.text), style="dim")
    parsed = parsed_text(record)
    return Text(_one_line(parsed.reasoning), style="dim"), Text.assemble(("→ ", "bold"), _one_line(parsed.answer))


def _neighbour_cells(neighbour: ShownNeighbour) -> tuple[Text, ...]:
    mark = Text("✓", style="bold green") if neighbour.right else Text("✗", style="bold red")
    text = _side_text(neighbour.side)
    text.truncate(_LINE, overflow="ellipsis")
    if neighbour.answer:
        text.append(f" → {_one_line(neighbour.answer)}", style="dim")
    name = Text(neighbour.pair_id[:_PAIR], style="dim")
    return mark, Text(f"{neighbour.similarity:.2f}"), name, text


def _neighbour_line(neighbour: ShownNeighbour) -> Text:
    return Text(" ").join(_neighbour_cells(neighbour))


def _side_text(side: ShownSide) -> Text:
    """Media before the text, as a model sees them."""
    if not side.known:
        return Text("not in the rl table of this data set", style="dim italic")
    return Text.assemble((_one_line(side.names) + " " * bool(side.media), "magenta"), _one_line(side.text))


def _one_line(text: str) -> str:
    """On one line, and without what a terminal would take for a command."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
