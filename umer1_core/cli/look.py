"""Verbs that look at a data set."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from umer1_core.cli.app import Dataset, console, verb
from umer1_core.console import print_status, print_summary
from umer1_core.status import read_status
from umer1_core.versions import local_folder, recipe_of, resolve


@verb("Look at a data set", "umer1 status runs/miniature")
def status(dataset: Dataset) -> None:
    """Show how far a run is; works on a live run and on a dead one."""
    print_status(read_status(resolve(dataset)), console)


@verb("Look at a data set", "umer1 report runs/miniature")
def report(dataset: Dataset) -> None:
    """Write the report and the card of a data set again, and print the summary."""
    from umer1_core.publishing.card import write_card
    from umer1_core.publishing.report import write_report

    store = resolve(dataset)
    recipe = recipe_of(store)
    write_card(store, recipe, store.read_json("manifest.json"))
    write_report(store, recipe, recipe.seed)
    print_summary(store, console)


@verb("Look at a data set", "umer1 validate runs/miniature")
def validate(dataset: Dataset) -> None:
    """Hold a finished data set against its expectations again: parent version, held-out pairs, Data Docs, marker."""
    from umer1_core.errors import ValidationFailed
    from umer1_core.sampling.held_out import held_out_tables
    from umer1_core.validation.summary import headline
    from umer1_core.validation.validate import validate_version

    store = resolve(dataset)
    recipe = recipe_of(store)
    outcome = validate_version(store, recipe.validation, held_out_tables(recipe, store.root))
    console.print(f"{headline(outcome)}. Data Docs: {outcome.docs}", soft_wrap=True)
    if not outcome.success:
        raise ValidationFailed(outcome.message, f"See {outcome.docs}; mend the shards, or `validation` in the recipe.")


@verb("Look at a data set", "umer1 diff runs/miniature/v1 runs/miniature/v2")
def diff(
    a: Annotated[str, typer.Argument(help="A version, or the output that holds it (then its newest)")],
    b: Annotated[str, typer.Argument(help="Another")],
    examples: Annotated[int, typer.Option(min=0, help="Pairs to show, spread over the kinds of change")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON")] = False,
) -> None:
    """Show what changed from A to B: pairs by source and reason, shards, settings, and examples."""
    from umer1_core.publishing.diff import diff as compare
    from umer1_core.publishing.diff_show import difference_json, print_difference

    difference = compare(resolve(a), resolve(b), examples)
    if as_json:
        console.print_json(difference_json(difference).decode())
    else:
        print_difference(difference, console)


@verb("Look at a data set", "umer1 rollouts runs/miniature --worst")
def rollouts(
    dataset: Dataset,
    step: Annotated[int, typer.Option(min=0, help="A step of the training; otherwise the last one")] = 0,
    pair: Annotated[str, typer.Option(help="A pair, by how its name begins")] = "",
    side: Annotated[Literal["query", "target"] | None, typer.Option(help="Only groups of this side")] = None,
    worst: Annotated[
        bool, typer.Option("--worst", help="The group rewarded least; otherwise the one of most spread")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the group as JSON")] = False,
) -> None:
    """Show what GRPO sampled for one side: texts, rewards, and the neighbours each rollout retrieves."""
    from umer1_core.grpo.watch.group import Wish, show_group
    from umer1_core.grpo.watch.rollout_table import FOLDER, RolloutTable
    from umer1_core.grpo.watch.show import group_json, print_group

    store = resolve(dataset)
    table = RolloutTable(local_folder(store, "grpo") / FOLDER)
    group = show_group(table, store, Wish(step, pair, side, worst))
    if as_json:
        console.print_json(group_json(group).decode())
    else:
        print_group(group, console)
