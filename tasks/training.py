"""Training and evaluation of one data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from schemas.recipe import Recipe
from tasks.common import TASK_OPTIONS, shard_runner
from tasks.launching import run_launched
from tasks.training_board import training_board
from umer1_core.errors import StorageError
from umer1_core.evaluation.evaluate import evaluate_recipe
from umer1_core.publishing.report import write_report
from umer1_core.sampling.held_out import held_out_tables
from umer1_core.scores import ROWS, columns
from umer1_core.sft.train import train
from umer1_core.status import enter_stage
from umer1_core.store import Store
from umer1_core.training.launch import launch_command
from umer1_core.training.outcome import Finished, grpo_folder, read_finished, read_page, trained_student
from umer1_core.training.quiet import quiet_libraries
from umer1_core.training.watch.sheets import GRPO, SFT
from umer1_core.versions import local_folder


@task(name="train", **TASK_OPTIONS)
def train_student(recipe: Recipe, root: str, dume: bool = False) -> None:
    """Here, or in the processes of `training.accelerate`; either goes on from the newest checkpoint."""
    store, say = Store(root), get_run_logger().info
    enter_stage(store, "sft", **({} if dume else {"grpo": recipe.grpo.enabled}))
    training = recipe.training.model_copy(update={"objective": "dume"}) if dume else recipe.training
    folder = local_folder(store, "dume" if dume else "sft")
    quiet_libraries()
    with training_board(store, folder, training.steps, SFT, "sft"):
        if training.accelerate:
            arguments = ["train", store.root, *(["--dume"] if dume else [])]
            run_launched(launch_command(training.accelerate, arguments), folder / "launch.log", say)
        else:
            say("trained: %s", train(store, training, str(folder)))


@task(name="grpo", **TASK_OPTIONS)
def reinforce_student(recipe: Recipe, root: str) -> str:
    """GRPO of the student that SFT has trained, as `train_student`; returns what to tell where a guard stopped it."""
    store, logger = Store(root), get_run_logger()
    enter_stage(store, "grpo", grpo=True)
    student, folder, settings = trained_student(store), grpo_folder(store), recipe.grpo
    quiet_libraries()
    with training_board(store, folder, settings.steps, GRPO, "grpo"):
        if settings.accelerate:
            run_launched(launch_command(settings.accelerate, ["grpo", store.root]), folder / "launch.log", logger.info)
        else:
            _reinforce(store, recipe, student, folder)
    finished = read_finished(folder)
    if finished is None:
        raise StorageError(
            f"GRPO has ended without {folder / 'finished.json'}.", "Is the folder shared by all machines?"
        )
    if finished.warning:
        logger.warning("%s", finished.warning)
    else:
        logger.info("%s", finished.message)
    _show_report(finished, read_page(folder))
    return finished.warning


def _reinforce(store: Store, recipe: Recipe, student: str, folder: Path) -> None:
    from umer1_core.grpo import train as stage  # with TRL and vLLM, seconds that no other flow should wait for

    held_out = stage.HeldOut(recipe.training.held_out_pairs, recipe.training.seed)
    stage.train(store, recipe.grpo, student, str(folder), held_out)


def _show_report(finished: Finished, page: str) -> None:
    """The artifact `grpo-report`: what a guard stopped, and what changed from before to after."""
    if page or finished.warning:
        told = f"> **{finished.warning}**\n\n" if finished.warning else ""
        said = finished.warning or finished.changed
        create_markdown_artifact(key="grpo-report", description=said, markdown=told + page)


def where_it_trains(recipe: Recipe) -> Callable[..., Any]:
    """What runs a training's task: this process, or a machine of a Ray cluster, with all GPUs of the one with most."""
    return _here if recipe.runner != "ray" else _on_cluster


def _here(work: Task[Any, Any], **parameters: Any) -> Any:
    return work(**parameters)


def _on_cluster(work: Task[Any, Any], **parameters: Any) -> Any:
    with shard_runner(parameters["recipe"]) as cluster:
        import ray
        from prefect_ray.context import remote_options

        gpus = max((node["Resources"].get("GPU", 0) for node in ray.nodes()), default=0)
        with remote_options(num_gpus=gpus):
            return cluster.submit(work, parameters).result()


@task(name="sample held-out pairs", **TASK_OPTIONS)
def sample_held_out(recipe: Recipe, root: str) -> str:
    """The root of the held-out pairs' own tables."""
    return held_out_tables(recipe, root).root


@task(name="evaluate", **TASK_OPTIONS)
def evaluate_student(recipe: Recipe, root: str, held_out: str) -> dict[str, float]:
    store = Store(root)
    enter_stage(store, "evaluation")
    scores = evaluate_recipe(store, Store(held_out), recipe)
    create_markdown_artifact(key="scores", description=_headline(scores), markdown=_table(scores))
    return dict(scores["overall"])


@task(name="refresh report", **TASK_OPTIONS)
def refresh_report(recipe: Recipe, root: str) -> None:
    """The report again, now with the scores."""
    write_report(Store(root), recipe, recipe.seed)


def _headline(scores: dict[str, Any]) -> str:
    """`gen 0.892, disc 0.888`; after GRPO `gen 0.921 (SFT 0.892), disc 0.890 (SFT 0.888)`."""
    said = []
    for word, mode in (("gen", "generative"), ("disc", "discriminative")):
        before = f" (SFT {scores['sft'][mode]:.3f})" if "sft" in scores else ""
        said.append(f"{word} {scores['overall'][mode]:.3f}{before}")
    return ", ".join(said)


def _table(scores: dict[str, Any]) -> str:
    shown = columns(scores)
    lines = ["# Held-out hit@1", "", f"| | {' | '.join(column.name for column in shown)} |"]
    lines.append("|---|" + "---:|" * len(shown))
    lines += [f"| {name} | {' | '.join(f'{column.hits[name]:.3f}' for column in shown)} |" for name in ROWS]
    return "\n".join(lines)
