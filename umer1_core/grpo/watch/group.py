"""A group of rollouts put together for a person: its side, its rewards, and what its rollouts are nearest to.

Guarantees: reads the rollout table and the data set's `rl` table, writes nothing; asked for what is not there it says
what is. A neighbour is right where the reward holds it for no negative: the own pair, and pairs with the same query or
the same target.
"""

from __future__ import annotations

import difflib
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath

from umer1_core.errors import StorageError
from umer1_core.grpo.watch.rollout_table import Neighbour, RolloutRecord, RolloutTable, SideName
from umer1_core.pairs import Media, Side, media_from_record
from umer1_core.query import connect, rows, scan
from umer1_core.store import Store
from umer1_core.template import GEN_EMB, Response, parse_rollout, side_text_of_prompt

_NEAR = 5  # names of pairs, and steps, that an error offers
_PAIR_COLUMNS = ("pair_id", "query_prompt", "query_media", "target_prompt", "target_media")


@dataclass(frozen=True, slots=True)
class Wish:
    """Which group to show. step: 0 for the last; pair: how its name begins; worst: of several the one with the least
    mean reward, otherwise the one whose rewards spread most."""

    step: int = 0
    pair: str = ""
    side: SideName | None = None
    worst: bool = False


@dataclass(frozen=True, slots=True)
class ShownSide:
    """text: as the data set has it; media: names of files. known: False where the `rl` table has no such pair."""

    text: str
    media: tuple[str, ...]
    known: bool = True

    @property
    def names(self) -> str:
        """`[red.png] [blue.png]`."""
        return " ".join(f"[{name}]" for name in self.media)


_Sides = dict[str, dict[SideName, ShownSide]]  # by pair


@dataclass(frozen=True, slots=True)
class ShownNeighbour:
    """side: the neighbour's; answer: of its best rewarded rollout, empty where none has a good form."""

    pair_id: str
    similarity: float
    right: bool
    side: ShownSide
    answer: str


@dataclass(frozen=True, slots=True)
class ShownRollout:
    record: RolloutRecord
    nearest: tuple[ShownNeighbour, ...]


@dataclass(frozen=True, slots=True)
class ShownGroup:
    """rollouts: the best rewarded first. own: what they are about; other: what they should be nearest to.

    steps: first and last of the table; groups: how many the step has.
    """

    step: int
    steps: tuple[int, int]
    groups: int
    pair_id: str
    source: str
    modality: str
    side: SideName
    own: ShownSide
    other: ShownSide
    rollouts: tuple[ShownRollout, ...]

    def mean(self, number: Callable[[RolloutRecord], float]) -> float:
        """Of a number of each rollout."""
        return statistics.fmean(number(rollout.record) for rollout in self.rollouts)

    @property
    def spread(self) -> float:
        """Standard deviation of the rewards."""
        return _spread([rollout.record for rollout in self.rollouts])


def shown_side(side: Side) -> ShownSide:
    return ShownSide(side.text, tuple(_media_name(media) for media in side.media))


def parsed_text(record: RolloutRecord) -> Response:
    """The parts of a rollout in good form, whatever ends its turn."""
    return parse_rollout(record.text.partition(GEN_EMB)[0] + GEN_EMB)


def show_group(table: RolloutTable, store: Store, wish: Wish) -> ShownGroup:
    """The group that is wished for, with texts from the data set. Raises StorageError where there is none."""
    steps = table.steps()
    if not steps:
        raise StorageError(
            f"There are no rollouts in {table.folder}.",
            "Train with GRPO on this data set first; it keeps what it samples.",
        )
    step = _step(table, steps, wish)
    groups = _groups(table.read(step))
    if not groups:
        raise StorageError(f"Step {step:,} has no rollouts: its pairs were all rejected.", "Look at another step.")
    chosen = _choose(groups, step, wish)
    first = chosen[0]
    sides = _sides(store, {n.pair_id for record in chosen for n in record.nearest} | {first.pair_id})
    other: SideName = "target" if first.side == "query" else "query"
    return ShownGroup(
        step=step,
        steps=(steps[0], steps[-1]),
        groups=len(groups),
        pair_id=first.pair_id,
        source=first.source,
        modality=first.modality,
        side=first.side,
        own=_side(sides, first.pair_id, first.side),
        other=_side(sides, first.pair_id, other),
        rollouts=_rollouts(chosen, groups, sides, other),
    )


def _step(table: RolloutTable, steps: Sequence[int], wish: Wish) -> int:
    """The step to look into: the one that is named, or the last one, of the pair where one is named."""
    if wish.step and wish.step not in steps:
        near = sorted(sorted(steps, key=lambda step: abs(step - wish.step))[:_NEAR])
        raise StorageError(
            f"There are no rollouts of step {wish.step:,}; there are of {len(steps):,} steps, "
            f"{steps[0]:,} to {steps[-1]:,}.",
            f"The nearest are {_listed(near)}.",
        )
    if not wish.pair:
        return wish.step or steps[-1]
    stood = table.steps_of(wish.pair)
    if wish.step in stood or (stood and not wish.step):
        return wish.step or stood[-1]
    if stood:
        raise StorageError(
            f"Pair {wish.pair} was not in step {wish.step:,}.",
            f"It was in {_listed(stood[-_NEAR:])}.",
        )
    raise StorageError(f"No step has a pair whose name begins with {wish.pair}.", _like(table, steps[-1], wish.pair))


def _like(table: RolloutTable, step: int, pair: str) -> str:
    known = sorted({record.pair_id for record in table.read(step)})
    begins = {pair_id[: max(4, len(pair))]: pair_id for pair_id in reversed(known)}
    near = [begins[found] for found in difflib.get_close_matches(pair, list(begins), _NEAR, cutoff=0.5)]
    return f"Step {step:,} has {_listed(near or known[:_NEAR])}, for example."


def _groups(records: Sequence[RolloutRecord]) -> list[list[RolloutRecord]]:
    def group(record: RolloutRecord) -> tuple[str, str]:
        return record.pair_id, record.side

    return [list(found) for _, found in groupby(sorted(records, key=group), key=group)]


def _choose(groups: Sequence[list[RolloutRecord]], step: int, wish: Wish) -> list[RolloutRecord]:
    found = [g for g in groups if g[0].pair_id.startswith(wish.pair) and wish.side in (None, g[0].side)]
    if not found:
        raise StorageError(f"Step {step:,} has no group of the side {wish.side}.", "Ask without --side.")
    if wish.worst:
        return min(found, key=lambda group: statistics.fmean(record.reward for record in group))
    return max(found, key=_spread)


def _spread(group: Sequence[RolloutRecord]) -> float:
    return statistics.pstdev(record.reward for record in group)


def _order(record: RolloutRecord) -> tuple[float, int]:
    return -record.reward, record.rollout


def _right(groups: Sequence[list[RolloutRecord]], own: RolloutRecord) -> set[str]:
    """The pairs of the step whose other side is right for `own`."""
    keys: dict[str, dict[str, str]] = {}
    for group in groups:
        keys.setdefault(group[0].pair_id, {})[group[0].side] = group[0].side_key
    mine = keys[own.pair_id]
    return {pair for pair, sides in keys.items() if any(sides.get(side) == key for side, key in mine.items())}


def _rollouts(
    chosen: Sequence[RolloutRecord], groups: Sequence[list[RolloutRecord]], sides: _Sides, other: SideName
) -> tuple[ShownRollout, ...]:
    """The best rewarded first."""
    right = _right(groups, chosen[0])
    answers = {group[0].pair_id: _answer(group) for group in groups if group[0].side == other}

    def neighbour(found: Neighbour) -> ShownNeighbour:
        pair = found.pair_id
        return ShownNeighbour(pair, found.similarity, pair in right, _side(sides, pair, other), answers.get(pair, ""))

    return tuple(ShownRollout(r, tuple(neighbour(n) for n in r.nearest)) for r in sorted(chosen, key=_order))


def _answer(group: Sequence[RolloutRecord]) -> str:
    """Of the best rewarded rollout in good form."""
    good = [record for record in sorted(group, key=_order) if not record.problem]
    return parsed_text(good[0]).answer if good else ""


def _sides(store: Store, pair_ids: set[str]) -> _Sides:
    """Both sides of these pairs, from the `rl` table."""
    with connect(threads=1) as connection:
        scan(connection, store, "rl", _PAIR_COLUMNS)
        names = sorted(pair_ids)
        marks = ", ".join("?" * len(names))
        found = rows(connection, f"SELECT * FROM rl WHERE pair_id IN ({marks})", names)
    names_of: tuple[SideName, SideName] = ("query", "target")
    return {
        row["pair_id"]: {
            side: shown_side(
                Side(
                    side_text_of_prompt(row[f"{side}_prompt"]),
                    tuple(media_from_record(item) for item in row[f"{side}_media"]),
                )
            )
            for side in names_of
        }
        for row in found
    }


def _side(sides: _Sides, pair_id: str, side: SideName) -> ShownSide:
    return sides[pair_id][side] if pair_id in sides else ShownSide("", (), known=False)


def _media_name(media: Media) -> str:
    """The file's name, and what it holds: `red.png`, `world.tar!7.png`, `clip-1, 8 frames`."""
    name = PurePosixPath(media.uri).name
    inside = f"!{media.member}" if media.member else ""
    frames = f", {len(media.frames)} frames" if media.frames else ""
    return f"{name}{inside}{frames}"


def _listed(names: Iterable[object]) -> str:
    return ", ".join(f"{name:,}" if isinstance(name, int) else str(name) for name in names)
