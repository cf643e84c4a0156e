"""Training and evaluation of one data set."""

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from schemas.recipe import Recipe
from tasks.common import TASK_OPTIONS, shard_runner
from tasks.launching import run_launched
from tasks.training_board import training_board
from umer1_core.evaluation.evaluate import evaluate_recipe
from umer1_core.publishing.report import write_report
from umer1_core.sampling.held_out import held_out_tables
from umer1_core.sft.train import train
from umer1_core.status import enter_stage
from umer1_core.store import Store
from umer1_core.training.launch import launch_command
from umer1_core.versions import local_folder


@task(name="train", **TASK_OPTIONS)
def train_student(recipe: Recipe, root: str, dume: bool = False) -> None:
    """Here, or in the processes of `training.accelerate`; either goes on from the newest checkpoint."""
    store, say = Store(root), get_run_logger().info
    enter_stage(store, "sft")
    training = recipe.training.model_copy(update={"objective": "dume"}) if dume else recipe.training
    folder = local_folder(store, "dume" if dume else "sft")
    with training_board(store, folder, training.steps):
        if training.accelerate:
            arguments = ["train", store.root, *(["--dume"] if dume else [])]
            run_launched(launch_command(training.accelerate, arguments), folder / "launch.log", say)
        else:
            say("trained: %s", train(store, training, str(folder)))


def train_on_cluster(recipe: Recipe, root: str, dume: bool = False) -> None:
    """`train_student` on a machine of a Ray cluster, with all GPUs of the one that has most."""
    with shard_runner(recipe) as cluster:
        import ray
        from prefect_ray.context import remote_options

        gpus = max((node["Resources"].get("GPU", 0) for node in ray.nodes()), default=0)
        with remote_options(num_gpus=gpus):
            cluster.submit(train_student, {"recipe": recipe, "root": root, "dume": dume}).result()


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
