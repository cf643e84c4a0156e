"""Verbs that use a data set: train on it, score what was trained, hand it on."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from typing import Annotated, Any

import typer
from rich.markup import escape

from umer1_core.cli.app import Dataset, become, console, verb
from umer1_core.compat import PARENT_VARIABLE, end_with_starter
from umer1_core.console import print_summary, progress_bar
from umer1_core.publishing.export import Form, Wanted
from umer1_core.versions import exclusive, local_folder, recipe_of, resolve

_LINE_SECONDS = 10.0  # between lines where there is no terminal for a bar


@verb("Use a data set", "umer1 train runs/miniature")
def train(
    dataset: Dataset,
    dume: Annotated[
        bool, typer.Option("--dume", help="The discriminative-only baseline, in a folder of its own")
    ] = False,
    accelerate: Annotated[str, typer.Option(help="An accelerate config file: train in the processes it names")] = "",
    processes: Annotated[int, typer.Option(help="With accelerate: so many, and not the file's number")] = 0,
) -> None:
    """Train the recipe's student on a validated data set; goes on from the newest checkpoint."""
    from transformers.utils.logging import disable_progress_bar

    from umer1_core.sft.train import train as train_on
    from umer1_core.training.launch import launch_command, launched_kind
    from umer1_core.training.ranks import join_ranks, leave_ranks
    from umer1_core.training.watch.log import terms
    from umer1_core.validation.validate import require_validated

    store = resolve(dataset)
    training = recipe_of(store).training
    require_validated(store, store.read_json("manifest.json")["data_hash"])
    config = accelerate or training.accelerate
    if config and launched_kind() == "one":
        become(launch_command(config, ["train", store.root, *(["--dume"] if dume else [])], processes))
    folder = str(local_folder(store, "sft"))
    if dume:
        training, folder = training.model_copy(update={"objective": "dume"}), str(local_folder(store, "dume"))
    disable_progress_bar()  # of loading and saving weights; ours shows the training
    ranks = join_ranks()
    by_flow = PARENT_VARIABLE in os.environ  # it holds the lock, and its end is theirs
    if by_flow:
        end_with_starter()
    locked = exclusive(store.root, "train") if ranks.main and not by_flow else nullcontext()
    with locked, progress_bar(console, hidden=not ranks.main) as bar:
        task = bar.add_task("training", total=training.steps)

        last_line = 0.0

        def show(record: dict[str, Any]) -> None:
            nonlocal last_line
            step, said = record["step"], terms(record)
            bar.update(task, completed=step, description=f"training  {said}")
            if not console.is_terminal and (time.monotonic() - last_line > _LINE_SECONDS or step == training.steps):
                console.print(f"training  {step:,}/{training.steps:,} steps  {said}", soft_wrap=True)
                last_line = time.monotonic()

        def count(done: int, rows: int) -> None:
            bar.update(task, description=f"counting tokens, {done:,} of {rows:,} pairs")

        report = train_on(store, training, folder, show, count)
    if ranks.main:
        console.print(f"Trained: {report.model}. Next: umer1 evaluate {dataset}", soft_wrap=True)
    leave_ranks()


@verb("Use a data set", "umer1 evaluate runs/miniature")
def evaluate(dataset: Dataset) -> None:
    """hit@1 of both embeddings on the recipe's held-out pairs, against chance, the untrained student and DUME."""
    from umer1_core.evaluation.evaluate import evaluate_recipe
    from umer1_core.sampling.held_out import held_out_tables

    store = resolve(dataset)
    recipe = recipe_of(store)
    with progress_bar(console) as bar:
        task = bar.add_task("embedding", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        evaluate_recipe(store, held_out_tables(recipe, store.root), recipe, show)
    print_summary(store, console)


@verb("Use a data set", "umer1 publish runs/miniature --to exports/miniature --media embed")
def publish(
    dataset: Dataset,
    to: Annotated[str, typer.Option(help="A folder, or hub:<name>/<data set>; its token comes from HF_TOKEN")],
    form: Annotated[Form, typer.Option(help="datasets: Parquet; released: the authors' JSON")] = "datasets",
    media: Annotated[Wanted, typer.Option(help="reference: where media lie; embed: their bytes")] = "reference",
) -> None:
    """Export cold_start and rl for other people's tools, with a card; goes on where it stopped."""
    from umer1_core.publishing.export.run import export

    store = resolve(dataset)
    with progress_bar(console) as bar:
        task = bar.add_task("exporting", total=None)

        def show(name: str, done: int, total: int) -> None:
            bar.update(task, description=f"exporting {escape(name)}", completed=done, total=total)

        exported = export(store, recipe_of(store), to, form, media, show)
    size = f"{exported.bytes / 1e6:,.1f} MB in {exported.files:,} files, {exported.kept:,} of them there before"
    console.print(f"Exported to {escape(exported.place)}: {size}.", soft_wrap=True)
    for reason, count in exported.left_out.items():
        console.print(f"[yellow]{count:,} rows left out:[/] {escape(reason)} (export.json names them)")
