"""`umer1 …`: the same verbs as the flows.

Verbs that need Prefect start it as a process of its own, so the library stays free of it. A user's mistake is answered
with a sentence, never with a traceback.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from umer1_core.annotation.dead_letters import dead_letters, print_dead_letters
from umer1_core.console import print_status, print_summary, progress_bar
from umer1_core.errors import StorageError, Umer1Error
from umer1_core.recipes import MINIATURE_FOLDER, load_recipe, parse_recipe
from umer1_core.status import read_status
from umer1_core.store import Store
from umer1_core.versions import exclusive, is_finished, local_folder, newest, recipe_at, recipe_of, resolve

app = typer.Typer(
    help="Reason before you embed: build cold-start data, train and evaluate UME-R1 style embedding models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = Console(highlight=False)
RecipePath = Annotated[str, typer.Argument(help="A recipe (YAML)", metavar="RECIPE")]
Dataset = Annotated[str, typer.Argument(help="A version, as runs/miniature/v1, or the output that holds it")]
Port = Annotated[int, typer.Option(help="Port of the Prefect server")]
MINIATURE_RECIPE = str(MINIATURE_FOLDER / "recipe.yaml")


def main() -> None:
    app()


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a verb; errors meant for people end it with exit code 1 and their sentence."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except Umer1Error as error:
            console.print(f"[red]Error:[/] {escape(error.message)}")
            if error.remedy:
                console.print(escape(error.remedy))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            console.print("Stopped. The same command goes on where it stopped.")
            raise typer.Exit(130) from None

    return app.command(epilog=f"Example: [bold]{EXAMPLES[function.__name__]}[/]")(run)


EXAMPLES = {
    "quickstart": "umer1 quickstart",
    "up": "umer1 up --port 4200",
    "build": "umer1 build deploy/recipes/folder.yaml",
    "reannotate": "umer1 reannotate deploy/recipes/folder.yaml",
    "redrive": "umer1 redrive runs/miniature --list",
    "pilot": "umer1 pilot deploy/recipes/folder.yaml --rows 200",
    "status": "umer1 status runs/miniature",
    "train": "umer1 train runs/miniature",
    "evaluate": "umer1 evaluate runs/miniature",
    "report": "umer1 report runs/miniature",
}


@_command
def quickstart(port: Port = 4200) -> None:
    """Run the whole line on the embedded miniature: data set, validation, training, scores."""
    _run_module("flows.follow", "build", MINIATURE_RECIPE, "--port", str(port))


@_command
def up(port: Port = 4200) -> None:
    """Start the Prefect server, the worker and the deployments, and print the UI's address."""
    _run_module("flows.up", "--port", str(port))


@_command
def build(recipe: RecipePath, port: Port = 4200) -> None:
    """Build the data set of a recipe, validate it and train on it; goes on where an earlier run stopped."""
    load_recipe(recipe)  # a mistake in it is answered before a server is started
    _run_module("flows.follow", "build", recipe, "--port", str(port))


@_command
def reannotate(recipe: RecipePath, port: Port = 4200) -> None:
    """Ask rejected, failed and outdated sides again, as a new version of the data set."""
    load_recipe(recipe)
    _run_module("flows.follow", "reannotate", recipe, "--port", str(port))


@_command
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
        _run_module("flows.follow", "redrive", dataset, "--reason", reason, "--port", str(port))


@_command
def pilot(
    recipe: RecipePath,
    rows: Annotated[int, typer.Option(min=2, help="Sides to annotate, about")] = 200,
    endpoint: Annotated[list[str] | None, typer.Option(help="Ask these servers instead of the recipe's")] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs behind the servers; 0: one each")] = 0,
) -> None:
    """Annotate a few rows of every source, show them, and project tokens, time and GPU-hours of the whole recipe."""
    from umer1_core.pilot.run import pilot_folder, run_pilot
    from umer1_core.pilot.show import print_pilot

    chosen = load_recipe(recipe)
    if endpoint:
        servers = {"endpoints": endpoint, "endpoints_file": ""}
        asked = chosen.dump()
        chosen = parse_recipe(asked | {"annotation": asked["annotation"] | servers}, "--endpoint")
    with progress_bar(console) as bar:
        task = bar.add_task("reading", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        report = run_pilot(chosen, rows, gpus, show, lambda line: console.print(escape(line)))
    print_pilot(report, str(pilot_folder(chosen)), console)


@_command
def status(dataset: Dataset) -> None:
    """Show how far a run is; works on a live run and on a dead one."""
    print_status(read_status(resolve(dataset)), console)


@_command
def train(dataset: Dataset) -> None:
    """Train the recipe's student on a validated data set; goes on from the newest checkpoint."""
    from umer1_core.sft.train import train as train_on
    from umer1_core.validation.validate import require_validated

    store = resolve(dataset)
    recipe = recipe_of(store)
    require_validated(store, store.read_json("manifest.json")["data_hash"])
    with exclusive(store.root, "train"), progress_bar(console) as bar:
        task = bar.add_task("training", total=recipe.training.steps)

        def show(step: int, steps: int, losses: dict[str, float]) -> None:
            terms = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
            bar.update(task, completed=step, total=steps, description=f"training  {terms}")

        train_on(store, recipe.training, str(local_folder(store, "sft")), show)
    console.print(f"Trained: {local_folder(store, 'sft')}. Next: umer1 evaluate {dataset}")


@_command
def evaluate(dataset: Dataset) -> None:
    """hit@1 of both embeddings on the recipe's held-out pairs, against chance and the untrained student."""
    from umer1_core.evaluation.evaluate import evaluate_recipe
    from umer1_core.sampling.held_out import sample_held_out

    store = resolve(dataset)
    recipe = recipe_of(store)
    with progress_bar(console) as bar:
        task = bar.add_task("embedding", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        held_out = sample_held_out(recipe.evaluation.sources, recipe.seed, Store(f"{store.root}/held_out"))
        evaluate_recipe(store, held_out, recipe, show)
    print_summary(store, console)


@_command
def report(dataset: Dataset) -> None:
    """Write the report and the card of a data set again, and print the summary."""
    from umer1_core.publishing.card import write_card
    from umer1_core.publishing.report import write_report

    store = resolve(dataset)
    recipe = recipe_of(store)
    write_card(store, recipe, store.read_json("manifest.json"))
    write_report(store, recipe, recipe.seed)
    print_summary(store, console)


def _run_module(module: str, *arguments: str) -> None:
    code = subprocess.call([sys.executable, "-m", module, *arguments])
    if code:
        raise typer.Exit(code)
