"""Dead letters: the sides that could not be annotated, by reason, with where their media lie and the last error.

They stand in the table `annotations` with finish_reason "error"; `umer1 redrive` asks for them again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape

from umer1_core.errors import StorageError, safe_url
from umer1_core.pairs import side_from_record
from umer1_core.store import ShardEntry, Store
from umer1_core.text import one_line

UNNAMED = "unnamed"  # what a reason is called in data sets of the first schema version, which kept none

_SHOWN = 200  # characters
_COLUMNS = ["side_key", "sample", "source", "finish_reason", "reason", "error"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One example. `media`: the places a person would open."""

    side_key: str
    sample: int
    source: str
    text: str
    media: tuple[str, ...]
    error: str


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """All that failed for one reason."""

    reason: str
    count: int
    examples: tuple[DeadLetter, ...]


def dead_letters(store: Store, reason: str = "", examples: int = 3) -> list[DeadLetters]:
    """The dead letters of a version by reason, the most frequent first; of one reason only where one is given.

    Raises StorageError, naming the reasons there are, where nothing failed for the given one but something did.
    """
    counts: Counter[str] = Counter()
    found: dict[str, list[DeadLetter]] = defaultdict(list)
    for entry in store.entries("annotations"):
        if not _may_hold_errors(entry):
            continue
        for name, rows in _failed(store, entry.shard).items():
            counts[name] += len(rows)
            chosen = rows[: examples - len(found[name])] if reason in ("", name) else []
            found[name] += _examples(store, entry.shard, chosen)
    if reason and counts and reason not in counts:
        known = ", ".join(f"{name} ({count:,})" for name, count in counts.most_common())
        raise StorageError(
            f"No side of {store.root} failed for the reason {reason}.", f"The reasons there are: {known}."
        )
    names = [name for name, _ in counts.most_common() if reason in ("", name)]
    return [DeadLetters(name, counts[name], tuple(found[name])) for name in names]


def print_dead_letters(letters: Sequence[DeadLetters], root: str, console: Console) -> None:
    """What `umer1 redrive` shows before it asks again."""
    if not letters:
        console.print(f"Every side of {root} could be annotated: there are no dead letters.", soft_wrap=True)
        return
    total = sum(each.count for each in letters)
    console.print(
        f"[bold]{total:,} {'sides' if total > 1 else 'side'} of {root} could not be annotated[/]", soft_wrap=True
    )
    for each in letters:
        console.print(f"\n[bold]{escape(each.reason)}[/]  {each.count:,}")
        for letter in each.examples:
            console.print(
                f"  {letter.side_key}  {escape(letter.source)}  {escape(one_line(letter.text, _SHOWN))}", soft_wrap=True
            )
            for place in letter.media:
                console.print(f"    media  {escape(safe_url(place))}", soft_wrap=True)
            console.print(f"    error  {escape(one_line(letter.error, _SHOWN))}", soft_wrap=True)


def _may_hold_errors(entry: ShardEntry) -> bool:
    return bool(entry.metrics.get("errors", True))


def _failed(store: Store, shard: str) -> dict[str, list[dict[str, Any]]]:
    table = store.read_shard("annotations", shard, _COLUMNS)
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table.filter(pc.equal(table["finish_reason"], "error")).to_pylist():
        rows[row["reason"] or UNNAMED].append(row)
    return rows


def _examples(store: Store, shard: str, rows: list[dict[str, Any]]) -> list[DeadLetter]:
    if not rows:
        return []
    sides = store.read_shard("sides", shard, ["side_key", "text", "media"])
    wanted = sides.filter(pc.is_in(sides["side_key"], value_set=pa.array([row["side_key"] for row in rows])))
    by_key = {side["side_key"]: side_from_record(side) for side in wanted.to_pylist()}
    letters = []
    for row in rows:
        side = by_key[row["side_key"]]
        media = tuple(item.where for item in side.media)
        letters.append(DeadLetter(row["side_key"], row["sample"], row["source"], side.text, media, row["error"]))
    return letters
