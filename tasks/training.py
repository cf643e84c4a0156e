"""Training and evaluation of one data set."""

import time
from typing import cast
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from schemas.recipe import Recipe
from tasks.common import TASK_OPTIONS
from umer1_core.evaluation.evaluate import evaluate_recipe
from umer1_core.publishing.report import write_report
from umer1_core.sampling.held_out import held_out_tables
from umer1_core.sft.train import train
from umer1_core.status import enter_stage
from umer1_core.store import Store
from umer1_core.versions import local_folder

_UPDATE_SECONDS = 3.0


@task(name="train", **TASK_OPTIONS)
def train_student(recipe: Recipe, root: str) -> None:
    store = Store(root)
    enter_stage(store, "sft")
    start = f"0/{recipe.training.steps} steps"
    artifact = cast(UUID, create_progress_artifact(0.0, key="sft-progress", description=start))
    shown = 0.0

    def show(step: int, steps: int, losses: dict[str, float]) -> None:
        nonlocal shown
        if step == steps or time.monotonic() - shown > _UPDATE_SECONDS:
            shown = time.monotonic()
            terms = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
            update_progress_artifact(artifact, 100.0 * step / steps, description=f"{step}/{steps} steps: {terms}")

    report = train(store, recipe.training, str(local_folder(store, "sft")), show)
    get_run_logger().info("trained: %s", report)


@task(name="sample held-out pairs", **TASK_OPTIONS)
def sample_held_out(recipe: Recipe, root: str) -> str:
    """The root of the held-out pairs' own tables."""
    return held_out_tables(recipe, root).root


@task(name="evaluate", **TASK_OPTIONS)
def evaluate_student(recipe: Recipe, root: str, held_out: str) -> dict[str, float]:
    store = Store(root)
    enter_stage(store, "evaluation")
    scores = evaluate_recipe(store, Store(held_out), recipe)
    create_markdown_artifact(key="scores", description=_headline(scores["overall"]), markdown=_table(scores))
    return dict(scores["overall"])


@task(name="refresh report", **TASK_OPTIONS)
def refresh_report(recipe: Recipe, root: str) -> None:
    """The report again, now with the scores."""
    write_report(Store(root), recipe, recipe.seed)


def _headline(overall: dict[str, float]) -> str:
    return f"gen {overall['generative']:.3f}, disc {overall['discriminative']:.3f}"


def _table(scores: dict) -> str:
    lines = ["# Held-out hit@1", "", "| | trained | untrained |", "|---|---:|---:|"]
    for name in ("generative", "discriminative", "oracle", "chance"):
        lines.append(f"| {name} | {scores['overall'][name]:.3f} | {scores['untrained'][name]:.3f} |")
    return "\n".join(lines)
