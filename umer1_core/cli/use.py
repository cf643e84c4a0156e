"""Verbs that use a data set: train on it, score what was trained, hand it on."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from umer1_core.cli.app import Dataset, console, verb
from umer1_core.console import print_summary, progress_bar
from umer1_core.publishing.export import Form, Wanted
from umer1_core.versions import local_folder, recipe_of, resolve

Accelerate = Annotated[str, typer.Option(help="An accelerate config file: train in the processes it names")]
Processes = Annotated[int, typer.Option(help="With accelerate: so many, and not the file's number")]


@verb("Use a data set", "umer1 train runs/miniature")
def train(
    dataset: Dataset,
    dume: Annotated[
        bool, typer.Option("--dume", help="The discriminative-only baseline, in a folder of its own")
    ] = False,
    accelerate: Accelerate = "",
    processes: Processes = 0,
) -> None:
    """Train the recipe's student on a validated data set; goes on from the newest checkpoint."""
    from umer1_core.cli.training import launch, training_shown
    from umer1_core.sft.train import train as train_on
    from umer1_core.training.watch.sheets import SFT
    from umer1_core.validation.validate import require_validated

    store = resolve(dataset)
    training = recipe_of(store).training
    require_validated(store, store.read_json("manifest.json")["data_hash"])
    launch(accelerate or training.accelerate, ["train", store.root, *(["--dume"] if dume else [])], processes)
    folder = str(local_folder(store, "sft"))
    if dume:
        training, folder = training.model_copy(update={"objective": "dume"}), str(local_folder(store, "dume"))
    with training_shown(store, "training", training.steps, SFT) as shown:
        report = train_on(store, training, folder, shown.step, shown.count)
    if shown.main:
        console.print(f"Trained: {report.model}. Next: umer1 evaluate {dataset}", soft_wrap=True)


@verb("Use a data set", "umer1 grpo runs/miniature")
def grpo(dataset: Dataset, accelerate: Accelerate = "", processes: Processes = 0) -> None:
    """Reinforce the trained student with the embedding reward; goes on from the newest checkpoint.

    The flow does so where the recipe says `grpo.enabled`; this verb does it whatever the recipe says there.
    """
    from umer1_core.cli.training import launch, training_shown
    from umer1_core.training.outcome import grpo_folder, read_finished, trained_student
    from umer1_core.training.watch.sheets import GRPO
    from umer1_core.validation.validate import require_validated

    store = resolve(dataset)
    recipe = recipe_of(store)
    require_validated(store, store.read_json("manifest.json")["data_hash"])
    student, folder = trained_student(store), grpo_folder(store)
    launch(accelerate or recipe.grpo.accelerate, ["grpo", store.root], processes)
    with training_shown(store, "GRPO", recipe.grpo.steps, GRPO) as shown:
        from umer1_core.grpo.train import HeldOut
        from umer1_core.grpo.train import train as reinforce

        held_out = HeldOut(recipe.training.held_out_pairs, recipe.training.seed)
        report = reinforce(store, recipe.grpo, student, str(folder), held_out, shown.step)
    finished = read_finished(folder)
    if shown.main and finished is not None:
        console.print(finished.message, style="yellow" if finished.warning else "", markup=False, soft_wrap=True)
        console.print(f"Trained: {report.model}. Next: umer1 evaluate {dataset}", markup=False, soft_wrap=True)


@verb("Use a data set", "umer1 evaluate runs/miniature")
def evaluate(dataset: Dataset) -> None:
    """hit@1 of both embeddings on the recipe's held-out pairs, beside chance, the untrained student, SFT's and DUME."""
    from umer1_core.evaluation.evaluate import evaluate_recipe
    from umer1_core.sampling.held_out import held_out_tables
    from umer1_core.training.quiet import quiet_libraries

    store = resolve(dataset)
    recipe = recipe_of(store)
    quiet_libraries()
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
