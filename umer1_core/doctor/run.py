"""`umer1 doctor`: everything that can be known of a recipe before it runs, in about a minute, whatever its size.

Guarantees: nothing but a small file in `output`, removed at once, is written (and the miniature's world, where the
recipe has one); one bad source does not hide another's
findings; every finding that is not `ok` says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from schemas.recipe import Recipe
from umer1_core.doctor.leaks import hashes_against, hashes_of_sources
from umer1_core.doctor.source import SourceFindings, look_at
from umer1_core.doctor.surroundings import look_around
from umer1_core.doctor.verdicts import Level, Verdict, failed, worst
from umer1_core.errors import SourceError, Umer1Error
from umer1_core.miniature.prepare import ensure_world
from umer1_core.sampling.layouts import list_sources
from umer1_core.sampling.rows import SourceSpec

Show = Callable[[str, int, int], None]
_MANY_REFUSED, _MOST_REFUSED = 0.05, 0.5
_MANY_REPEATED = 0.1
_NAMED = 4  # sources that a finding about several names


@dataclass(frozen=True, slots=True)
class Examination:
    """sources: in the recipe's order. seed, sample: what was asked for."""

    name: str
    sources: tuple[SourceFindings, ...]
    verdicts: tuple[Verdict, ...]
    evaluation_media: int
    sample: int

    @property
    def level(self) -> Level:
        return worst(self.verdicts)

    def dump(self) -> dict[str, Any]:
        """JSON-able, with a version of its own form."""
        return {
            "form": "umer1.doctor/1",
            "name": self.name,
            "level": self.level,
            "sample": self.sample,
            "evaluation_media": self.evaluation_media,
            "sources": [each.dump() for each in self.sources],
            "verdicts": [asdict(each) for each in self.verdicts],
        }


def examine(
    recipe: Recipe, sample: int, show: Show, against: Sequence[str] = (), archives: bool = False
) -> Examination:
    """sample: rows of each source that are opened. show: what is looked at, how much is done, and of how much.

    against: recipes, data sets or folders that training pairs must not show. archives: also search compressed ones.
    """
    if recipe.miniature:
        world = recipe.miniature
        show("writing the miniature world", 0, 0)
        ensure_world(Path(world.root), world.pairs, world.held_out, world.seed)
    show("listing sources", 0, 0)
    specs, verdicts = _list(recipe)
    known, found = _evaluation(recipe, against, show)
    verdicts += found
    sources = []
    for number, spec in enumerate(specs):
        show(f"looking at {spec.name}", number, len(specs))
        try:
            looked = look_at(spec, recipe.seed, sample, recipe.media, known, archives)
        except Umer1Error as error:
            verdicts.append(failed(spec.name, error))
            continue
        sources.append(looked)
        verdicts += _judge(looked, recipe, bool(known))
    verdicts += _about_counts(sources, recipe)
    pairs = sum(each.pairs or 0 for each in sources)
    verdicts += look_around(recipe, pairs)
    return Examination(recipe.name, tuple(sources), tuple(verdicts), len(known), sample)


def _list(recipe: Recipe) -> tuple[list[SourceSpec], list[Verdict]]:
    """Every unit that can be listed, and what is wrong with the others: each source by itself, then all together."""
    specs: list[SourceSpec] = []
    verdicts = []
    for number, source in enumerate(recipe.sources):
        try:
            specs += list_sources([source])
        except SourceError as error:
            verdicts.append(failed(f"sources.{number} ({source.kind})", error))
    if not verdicts:
        try:
            list_sources(recipe.sources)
        except SourceError as error:
            verdicts.append(failed("sources", error))
    return specs, verdicts


def _evaluation(recipe: Recipe, against: Sequence[str], show: Show) -> tuple[dict[str, str], list[Verdict]]:
    known: dict[str, str] = {}
    verdicts = []
    if recipe.evaluation.sources:
        show("reading the evaluation's pairs", 0, 0)
        try:
            known |= hashes_of_sources(recipe.evaluation.sources, recipe.seed, recipe.media)
        except Umer1Error as error:
            verdicts.append(failed("evaluation.sources", error))
    for location in against:
        show(f"reading {location}", 0, 0)
        known |= hashes_against(location, recipe.seed, recipe.media)
    return known, verdicts


def _judge(looked: SourceFindings, recipe: Recipe, compared: bool) -> Iterator[Verdict]:
    """What is remarkable about a source; `ok` where nothing is."""
    said = [*_about_rows(looked), *_about_refusals(looked), *_about_leaks(looked, recipe)]
    yield from said
    if not said:
        rest = f"; {looked.unopened}, which were not opened" if looked.unopened else ""
        clean = ", nothing of it in an evaluation set" if compared and looked.opened else ""
        yield Verdict("ok", looked.source, f"{looked.opened:,} of {looked.read:,} rows opened{clean}{rest}")
    elif looked.unopened:
        yield Verdict("ok", looked.source, f"{looked.unopened}, which were not opened", "--archives opens them.")


def _about_counts(sources: Sequence[SourceFindings], recipe: Recipe) -> Iterator[Verdict]:
    """One finding for all sources that have not the published rows; the miniature's have upstream's names only."""
    other = [each for each in sources if each.disagrees]
    if other and not recipe.miniature:
        counts = [f"{each.source} {each.rows:,} ({each.expected})" for each in other[:_NAMED]]
        more = [f"{len(other) - _NAMED} more"] if len(other) > _NAMED else []
        yield Verdict(
            "warning",
            "rows",
            f"{len(other)} sources have other rows than published: {', '.join([*counts, *more])}",
            "A part of a source is no mistake; where it should be whole: umer1 download RECIPE",
        )


def _about_rows(looked: SourceFindings) -> Iterator[Verdict]:
    if not looked.read:
        yield Verdict("error", looked.source, "There are no rows", "Download the files again, or remove the source.")
    elif looked.repeated / looked.read > _MANY_REPEATED:
        yield Verdict(
            "warning",
            looked.source,
            f"{looked.repeated:,} of {looked.read:,} rows repeat another",
            "They are drawn once; is it the right file?",
        )


def _about_refusals(looked: SourceFindings) -> Iterator[Verdict]:
    refused = sum(looked.refused.values())
    share = refused / max(1, looked.opened or looked.read)
    if share <= _MANY_REFUSED:
        return
    reason, count = next(iter(looked.refused.items()))
    level: Level = "error" if share > _MOST_REFUSED else "warning"
    yield Verdict(
        level,
        looked.source,
        f"{refused:,} rows cannot be used, {count:,} for {reason}: {looked.details[reason]}",
        "See that row; where files are missing: umer1 download RECIPE.",
    )


def _about_leaks(looked: SourceFindings, recipe: Recipe) -> Iterator[Verdict]:
    if not looked.leaked:
        return
    share = looked.leaked / max(1, looked.opened)
    level: Level = "error" if share > recipe.validation.max_leaked_fraction else "warning"
    yield Verdict(
        level,
        looked.source,
        f"{looked.leaked:,} of {looked.opened:,} opened pairs show evaluation media ({looked.leaked_examples[0]})",
        "Take these rows out of one of the two, or raise validation.max_leaked_fraction.",
    )
