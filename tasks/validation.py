"""Validation, and the one place that starts training."""

from datetime import UTC, datetime, timedelta
from typing import cast

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.events import emit_event

from schemas.recipe import Recipe
from tasks.common import TASK_OPTIONS
from umer1_core.errors import ValidationFailed
from umer1_core.reports import report_link
from umer1_core.sampling.held_out import held_out_tables
from umer1_core.status import enter_stage
from umer1_core.store import Store
from umer1_core.validation.summary import headline, to_markdown
from umer1_core.validation.validate import parent_of, validate
from umer1_core.versions import is_held, recipe_of

TRAIN = "train/default"
_START_GRACE = timedelta(seconds=60)  # a run is Running before it holds the lock


@task(name="validate", **TASK_OPTIONS)
def check(recipe: Recipe, root: str, data_hash: str) -> None:
    """Raises ValidationFailed with every expectation that failed and its shard.

    The held-out pairs are sampled before, so that no model is trained on what it is evaluated with.
    """
    store = Store(root)
    enter_stage(store, "validation")
    outcome = validate(store, recipe.validation, data_hash, parent_of(store), held_out_tables(recipe, root))
    create_markdown_artifact(
        key="validation",
        description=headline(outcome),
        markdown=to_markdown(outcome, data_hash, report_link(store, "validation/index.html")),
    )
    if not outcome.success:
        lines = "\n".join(f"- {failure}" for failure in outcome.failures)
        raise ValidationFailed(
            f"The data set {root} is not valid:\n{lines}",
            f"Nothing is trained. See {outcome.docs}; mend the shards or the thresholds under `validation`, "
            f"then: umer1 validate {root}",
        )
    get_run_logger().info("The data set %s is valid: %d expectations hold.", data_hash, outcome.expectations)


@task(
    name="start training", retries=5, retry_delay_seconds=[2, 5, 10, 30, 60], cache_policy=TASK_OPTIONS["cache_policy"]
)
def start_training(root: str, data_hash: str) -> str:
    """The id of the train run of this data set: exactly one, unless an earlier one died."""
    emit_event(
        "umer1.dataset.validated",
        resource={"prefect.resource.id": f"umer1.dataset.{data_hash}"},
        payload={"dataset": root, "data_hash": data_hash},
    )
    attempt = 1
    while True:
        deployment_run = run_deployment(
            TRAIN,
            parameters={"dataset": root},
            timeout=0,
            as_subflow=False,
            idempotency_key=f"train:{data_hash}:{attempt}",
        )
        run = cast(FlowRun, deployment_run)  # a coroutine only inside an event loop
        if not _died(run, root):
            get_run_logger().info("Training run %s: %s", run.name, run.state.name if run.state else "scheduled")
            return str(run.id)
        attempt += 1


def _died(run: FlowRun, root: str) -> bool:
    """Whether an earlier run of this key ended without training, or runs no more although the server thinks so."""
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run.id).state
    if state is None:
        return False
    if state.is_running():
        age = datetime.now(UTC) - state.timestamp
        return age > _START_GRACE and not is_held(root, "train")
    if state.is_completed():
        store = Store(root)
        stages = ["sft", *(["grpo"] if recipe_of(store).grpo.enabled else [])]
        return not all(store.exists(f"{stage}/finished.json") for stage in stages)  # trained elsewhere, or deleted
    return state.is_final()
