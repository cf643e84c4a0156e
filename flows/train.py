"""train/default: SFT of the recipe's student on a validated data set, GRPO where the recipe says so, then evaluation.

prefect deployment run train/default -p dataset=runs/miniature/v1
"""

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from tasks.training import (
    evaluate_student,
    refresh_report,
    reinforce_student,
    sample_held_out,
    train_student,
    where_it_trains,
)
from umer1_core.validation.validate import require_validated
from umer1_core.versions import exclusive, recipe_of, resolve


def run_name() -> str:
    """`train miniature v1`: the ends of the path say which data set; all of it would not fit the UI."""
    return " ".join(["train", *str(flow_run.parameters["dataset"]).rstrip("/").split("/")[-2:]])


@flow(name="train", flow_run_name=run_name, validate_parameters=True)
def train(dataset: str, dume: bool = False) -> dict[str, float] | State[dict[str, float]]:
    """dataset: the root of a validated version, or the output that holds it. Checkpoints resume.

    dume: train the discriminative-only baseline beside the student that is there, for the scores to compare.

    A run whose GRPO was stopped by a guard ends as `Stopped by a guard`, with what the guard said and with the scores
    of the model that was kept. Raises ValidationFailed when the data set is not valid or has changed since.
    """
    store = resolve(dataset)
    recipe = recipe_of(store)
    require_validated(store, store.read_json("manifest.json")["data_hash"])
    warning = ""
    with exclusive(store.root, "train", get_run_logger().info):
        # Not submitted to threads: a run that is cancelled ends what it does itself, not what a thread does.
        run = where_it_trains(recipe)
        run(train_student, recipe=recipe, root=store.root, dume=dume)
        if recipe.grpo.enabled and not dume:
            warning = run(reinforce_student, recipe=recipe, root=store.root)
        held_out = sample_held_out(recipe, store.root)
        scores = evaluate_student(recipe, store.root, held_out)
        refresh_report(recipe, store.root)
    return Completed(name="Stopped by a guard", message=warning, data=scores) if warning else scores
