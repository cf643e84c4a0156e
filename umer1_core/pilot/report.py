"""What a pilot showed and what the whole recipe would cost, as plain data.

The whole is estimated by source and role of a side (query, target): how many there are is counted over the rows that a
full run draws, what one costs is the pilot's mean. Time is the projected tokens at the measured rate.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.recipe import LoopStop, Recipe
from umer1_core.pairs import side_from_record
from umer1_core.pilot.projection import Estimate, Stratum, estimate_count, estimate_total
from umer1_core.sampling.survey import Survey, count_sides
from umer1_core.store import Store

_SAMPLES = 5
_LOOPS = ("cut", "loop")
_LOOP_SHARE = 0.02  # of the tokens; below it a switch is not worth a word
_HOUR = 3_600.0


@dataclass(frozen=True, slots=True)
class Measured:
    """seconds: of annotation alone. room: requests that could be in flight at a time."""

    seconds: float
    servers: int
    gpus: int
    room: int
    embedded: bool


class Rows:
    """The pilot's tables, small and in memory."""

    def __init__(self, store: Store) -> None:
        self.pairs = store.read("pairs", ["source", "query_key", "target_key"]).to_pylist()
        self.sides = {row["side_key"]: row for row in store.read("sides").to_pylist()}
        self.verdicts = store.read("verdicts").to_pylist()
        self.attempts = store.read("attempts").to_pylist()
        annotations = store.read("annotations", ["side_key", "sample", "completion"]).to_pylist()
        self.completion = {(row["side_key"], row["sample"]): row["completion"] for row in annotations}
        self.metrics = {entry.metrics["source"]: entry.metrics for entry in store.entries("rejections")}
        self.unit = {name: unit for unit, metrics in self.metrics.items() for name in metrics["by_source"]}
        self.kept = {row["side_key"] for row in self.verdicts if row["kept"]}
        self.place = self._places()

    def cost(self, tokens: str) -> dict[tuple[str, str], list[int]]:
        """Tokens of every completion wanted, all its attempts together, by (source, role)."""
        spent: dict[tuple[str, int], int] = {(row["side_key"], row["sample"]): 0 for row in self.verdicts}
        for row in self.attempts:
            spent[row["side_key"], row["sample"]] += row[tokens]
        found: dict[tuple[str, str], list[int]] = defaultdict(list)
        for (side_key, _), value in spent.items():
            found[self.place[side_key]].append(value)
        return found

    def _places(self) -> dict[str, tuple[str, str]]:
        places: dict[str, tuple[str, str]] = {}
        for role in ("query", "target"):
            for pair in self.pairs:
                places.setdefault(pair[f"{role}_key"], (self.unit[pair["source"]], role))
        return places


def make_report(recipe: Recipe, store: Store, surveys: list[Survey], measured: Measured) -> dict[str, Any]:
    rows = Rows(store)
    tokens = sum(row["completion_tokens"] for row in rows.attempts)
    loops = loop_cost(rows.attempts, rows.verdicts)
    projection = project(recipe, rows, surveys, measured, tokens / measured.seconds)
    return {
        "name": recipe.name,
        "model": recipe.annotation.model,
        "pilot": {
            "pairs": len(rows.pairs),
            "sides": len(rows.sides),
            "kept": len(rows.kept),
            "requests": len(rows.attempts),
            "prompt_tokens": sum(row["prompt_tokens"] for row in rows.attempts),
            "completion_tokens": tokens,
            "seconds": measured.seconds,
            "tokens_per_s": tokens / measured.seconds,
            "sides_per_s": len(rows.sides) / measured.seconds,
            "servers": measured.servers,
            "gpus": measured.gpus,
            "room": measured.room,
            "embedded": measured.embedded,
        },
        "sources": [_source(rows, survey, projection["sides_by_source"]) for survey in surveys],
        "reasons": dict(Counter(reason for row in rows.verdicts for reason in row["reasons"]).most_common()),
        "rejected": dict(sum((Counter(m["rejected"]) for m in rows.metrics.values()), Counter[str]()).most_common()),
        "samples": choose_samples(rows),
        "loops": loops,
        "projection": projection,
        "notes": notes(recipe, len(rows.verdicts), measured, loops),
    }


def project(
    recipe: Recipe, rows: Rows, surveys: list[Survey], measured: Measured, tokens_per_s: float
) -> dict[str, Any]:
    """Estimates for the whole recipe, each with its range."""
    share = {unit: m["pairs"] / m["drawn"] if m["drawn"] else 0.0 for unit, m in rows.metrics.items()}
    counts = count_sides(surveys, recipe.annotation.samples)
    whole: Counter[str] = Counter()
    for count in counts:
        whole[count.source] += round(count.sides * share[count.source])

    def total(column: str) -> Estimate:
        seen = rows.cost(column)
        return estimate_total(
            [Stratum(c.completions * share[c.source], seen[c.source, c.role]) for c in counts if c.completions]
        )

    kept = defaultdict(list)
    for pair in rows.pairs:
        both = pair["query_key"] in rows.kept and pair["target_key"] in rows.kept
        kept[rows.unit[pair["source"]]].append(float(both))
    pairs = {survey.spec.name: survey.drawn * share[survey.spec.name] for survey in surveys}
    completion_tokens = total("completion_tokens")
    wall = completion_tokens.scaled(1 / max(tokens_per_s, 1e-9) / _HOUR)
    return {
        "pairs": round(sum(pairs.values())),
        "sides": sum(whole.values()),
        "sides_by_source": dict(whole),
        "completions": round(sum(c.completions * share[c.source] for c in counts)),
        "prompt_tokens": total("prompt_tokens").dump(),
        "completion_tokens": completion_tokens.dump(),
        "pairs_kept": estimate_count([Stratum(pairs[unit], kept[unit]) for unit in pairs]).dump(),
        "wall_hours": wall.dump(),
        "gpu_hours": wall.scaled(measured.gpus).dump(),
    }


def loop_cost(attempts: Sequence[dict[str, Any]], verdicts: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Tokens in completions that were cut or looped, and what ending loops in the server would save of them.

    Saved is what stands after the copies that the server waits for; completions that were discarded before the filter
    saw them are taken to be like those that it saw.
    """
    stop = LoopStop()
    everything = sum(row["completion_tokens"] for row in attempts)
    spent = sum(row["completion_tokens"] for row in attempts if row["outcome"] in _LOOPS)
    bad = [row for row in verdicts if not row["kept"] and {"repetition", "truncated"} & set(row["reasons"])]
    ended = sum(
        max(0, row["repeat_tokens"] - stop.min_count * row["repeat_period"])
        for row in bad
        if "repetition" in row["reasons"] and stop.min_period <= row["repeat_period"] <= stop.max_period
    )
    seen = sum(row["completion_tokens"] for row in bad)
    saved = spent * min(1.0, ended / seen) if seen else 0.0
    return {"share": spent / everything if everything else 0.0, "saved": saved / everything if everything else 0.0}


def notes(recipe: Recipe, completions: int, measured: Measured, loops: dict[str, float]) -> list[str]:
    """What a reader of the numbers must know."""
    said = [
        "Ranges are two standard errors of the pilot's mean, for tokens and for pairs kept; the rate has none.",
        "Sides are counted over all rows that a full run draws, equal ones once. Equal media under two names count "
        "twice, so there are at most so many.",
    ]
    if measured.embedded:
        said.append("The embedded annotator ran on this machine: the rate, the hours and the GPU-hours are its own.")
    if completions < 2 * measured.room:
        said.append(
            f"The servers were not kept full: {completions:,} completions, room for {measured.room:,} at a time. A "
            "full run is faster than this rate; more --rows show by how much."
        )
    if loops["share"] > _LOOP_SHARE:
        said.append(
            f"{loops['share']:.1%} of the tokens are in completions that were cut or looped.{_advice(recipe, loops)}"
        )
    return said


def _advice(recipe: Recipe, loops: dict[str, float]) -> str:
    if recipe.annotation.stop_loops is not None:
        return ""
    if not loops["saved"]:
        return " They were cut by `completion.max_tokens`, not looping: `annotation.stop_loops` would not save them."
    return f" On vLLM `annotation.stop_loops: {{}}` would save about {loops['saved']:.1%} of all tokens."


def choose_samples(rows: Rows) -> list[dict[str, Any]]:
    """A few whole sides of as many sources as there are: a dropped one, where there is one, and kept ones."""
    dropped = [row for row in rows.verdicts if not row["kept"]]
    chosen = [*_one_a_source(dropped)[:1], *_one_a_source(row for row in rows.verdicts if row["kept"])]
    if len(chosen) < _SAMPLES:
        chosen += [row for row in dropped if row not in chosen]
    return [_sample(rows, verdict) for verdict in chosen[:_SAMPLES]]


def _one_a_source(verdicts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({row["source"]: row for row in verdicts}.values())


def _sample(rows: Rows, verdict: dict[str, Any]) -> dict[str, Any]:
    side = side_from_record(rows.sides[verdict["side_key"]])
    fields = ("side_key", "source", "kept", "reasons", "reasoning", "summary", "reasoning_tokens")
    return {name: verdict[name] for name in fields} | {
        "text": side.text,
        "media": [item.where for item in side.media],
        "completion": rows.completion[verdict["side_key"], verdict["sample"]],
    }


def _source(rows: Rows, survey: Survey, sides_by_source: dict[str, int]) -> dict[str, Any]:
    unit = survey.spec.name
    metrics = rows.metrics[unit]
    keys = [key for key, (source, _) in rows.place.items() if source == unit]

    def mean(column: str) -> float:
        values = [value for (source, _), found in rows.cost(column).items() if source == unit for value in found]
        return sum(values) / len(values) if values else 0.0

    return {
        "source": unit,
        "rows_read": survey.read,
        "pairs": round(survey.drawn * metrics["pairs"] / metrics["drawn"]) if metrics["drawn"] else 0,
        "sides": sides_by_source[unit],
        "pilot_sides": len(keys),
        "pilot_kept": len([key for key in keys if key in rows.kept]),
        "prompt_tokens": mean("prompt_tokens"),
        "completion_tokens": mean("completion_tokens"),
    }
