"""Verbs that use a data set: train on it, score what was trained, hand it on."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from umer1_core.cli.app import Dataset, console, verb
from umer1_core.console import print_summary, progress_bar
from umer1_core.publishing.export import Form, Wanted
from umer1_core.versions import exclusive, local_folder, recipe_of, resolve


@verb("Use a data set", "umer1 train runs/miniature")
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


@verb("Use a data set", "umer1 evaluate runs/miniature")
def evaluate(dataset: Dataset) -> None:
    """hit@1 of both embeddings on the recipe's held-out pairs, against chance and the untrained student."""
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
