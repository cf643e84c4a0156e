"""train/default: SFT of the recipe's student on a validated data set, then evaluation on held-out pairs.

prefect deployment run train/default -p dataset=runs/miniature/v1
"""

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from tasks.training import evaluate_student, refresh_report, sample_held_out, train_on_cluster, train_student
from umer1_core.validation.validate import require_validated
from umer1_core.versions import exclusive, recipe_of, resolve


def run_name() -> str:
    """`train miniature v1`: the ends of the path say which data set; all of it would not fit the UI."""
    return " ".join(["train", *str(flow_run.parameters["dataset"]).rstrip("/").split("/")[-2:]])


@flow(name="train", flow_run_name=run_name, validate_parameters=True)
def train(dataset: str, dume: bool = False) -> dict[str, float]:
    """dataset: the root of a validated version, or the output that holds it. Checkpoints resume.

    dume: train the discriminative-only baseline beside the student that is there, for the scores to compare.

    Raises ValidationFailed when the data set is not valid or has changed since.
    """
    store = resolve(dataset)
    recipe = recipe_of(store)
    require_validated(store, store.read_json("manifest.json")["data_hash"])
    with exclusive(store.root, "train", get_run_logger().info):
        # Not submitted to threads: a run that is cancelled ends what it does itself, not what a thread does.
        start = train_on_cluster if recipe.runner == "ray" else train_student
        start(recipe, store.root, dume)
        held_out = sample_held_out(recipe, store.root)
        scores = evaluate_student(recipe, store.root, held_out)
        refresh_report(recipe, store.root)
    return scores
