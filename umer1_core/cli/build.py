"""Verbs that run the line: they start Prefect and follow what it does."""

from __future__ import annotations

from typing import Annotated

import typer

from umer1_core.annotation.dead_letters import dead_letters, print_dead_letters
from umer1_core.cli.app import MINIATURE_RECIPE, Port, RecipePath, console, run_module, verb
from umer1_core.errors import StorageError
from umer1_core.recipes import load_recipe
from umer1_core.store import Store
from umer1_core.versions import is_finished, newest, recipe_at


@verb("Build", "umer1 quickstart")
def quickstart(port: Port = 4200) -> None:
    """Run the whole line on the embedded miniature: data set, validation, training, scores."""
    run_module("flows.follow", "build", MINIATURE_RECIPE, "--port", str(port))


@verb("Build", "umer1 up --port 4200")
def up(port: Port = 4200) -> None:
    """Start the Prefect server, the worker and the deployments, and print the UI's address."""
    run_module("flows.up", "--port", str(port))


@verb("Build", "umer1 build deploy/recipes/folder.yaml")
def build(recipe: RecipePath, port: Port = 4200) -> None:
    """Build the data set of a recipe, validate it and train on it; goes on where an earlier run stopped."""
    load_recipe(recipe)  # a mistake in it is answered before a server is started
    run_module("flows.follow", "build", recipe, "--port", str(port))


@verb("Build", "umer1 reannotate deploy/recipes/folder.yaml")
def reannotate(recipe: RecipePath, port: Port = 4200) -> None:
    """Ask rejected, failed and outdated sides again, as a new version of the data set."""
    load_recipe(recipe)
    run_module("flows.follow", "reannotate", recipe, "--port", str(port))


@verb("Build", "umer1 redrive runs/miniature --list")
def redrive(
    dataset: Annotated[str, typer.Argument(help="A version, the output that holds it, or its recipe")],
    show: Annotated[bool, typer.Option("--list", help="Show the dead letters instead of asking for them")] = False,
    reason: Annotated[str, typer.Option(help="Only the dead letters of this reason; the others stay")] = "",
    port: Port = 4200,
) -> None:
    """Ask only the dead letters (sides that could not be annotated) again, as a new version of the data set."""
    recipe = recipe_at(dataset)
    version = newest(recipe.output)
    if version is None:
        raise StorageError(f"There is no data set at {recipe.output} to redrive.", "Build it first: umer1 build …")
    at_work = version.mode == "redrive" and not is_finished(version)
    letters = dead_letters(Store(version.parent) if at_work else version.store, reason)
    print_dead_letters(letters, version.root, console)
    if letters and not show:
        run_module("flows.follow", "redrive", dataset, "--reason", reason, "--port", str(port))
