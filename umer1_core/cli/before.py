"""Verbs that look before a run: nothing is built."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from umer1_core.cli.app import RecipePath, console, verb
from umer1_core.console import progress_bar
from umer1_core.recipes import load_recipe, parse_recipe


@verb("Before a run", "umer1 download deploy/recipes/ume-r1.yaml --only mmeb/OK-VQA")
def download(
    recipe: RecipePath,
    only: Annotated[list[str] | None, typer.Option(help="Only this source, as mmeb/OK-VQA or mmeb; repeatable")] = None,
    to: Annotated[str, typer.Option(help="A folder that takes the place of all roots")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be fetched")] = False,
) -> None:
    """Fetch from the hub exactly what a recipe's sources need, into their roots; goes on where it stopped."""
    from umer1_core.download.hub import Hub
    from umer1_core.download.run import download as fetch
    from umer1_core.download.run import plan_download
    from umer1_core.download.show import print_downloaded, print_plan

    chosen, names = load_recipe(recipe), only or []
    if dry_run:
        print_plan(plan_download(chosen, Hub(), names, to), console)
        return
    with progress_bar(console) as bar:
        task = bar.add_task("fetching (MB)", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done // 1_000_000, total=max(1, total // 1_000_000))

        downloaded = fetch(chosen, Hub(), show, names, to)
    print_downloaded(downloaded, console)


@verb("Before a run", "umer1 doctor deploy/recipes/folder.yaml --sample 200")
def doctor(
    recipe: RecipePath,
    sample: Annotated[int, typer.Option(min=1, help="Rows of each source whose media are opened")] = 200,
    against: Annotated[
        list[str] | None, typer.Option(help="A recipe, data set or folder whose media training must not show")
    ] = None,
    archives: Annotated[bool, typer.Option("--archives", help="Also search large compressed archives")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON")] = False,
) -> None:
    """Check before a run that everything a recipe names is there and is what it takes it for; exit code 1 on errors."""
    from umer1_core.doctor.run import examine
    from umer1_core.doctor.show import print_examination

    chosen = load_recipe(recipe)
    with progress_bar(console) as bar:
        task = bar.add_task("reading", total=None)

        def show(what: str, done: int, total: int) -> None:
            if not as_json:
                bar.update(task, description=escape(what), completed=done, total=total or None)

        examination = examine(chosen, sample, show, against or [], archives)
    if as_json:
        console.print_json(data=examination.dump())
    else:
        print_examination(examination, console)
    if examination.level == "error":
        raise typer.Exit(1)


@verb("Before a run", "umer1 pilot deploy/recipes/folder.yaml --rows 200")
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
