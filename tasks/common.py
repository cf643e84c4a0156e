"""What all tasks share: which failures a retry may heal, and where shards run."""

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from schemas.recipe import Recipe
from umer1_core.errors import RecipeError, Umer1Error

# Umer1Errors wait for a person; anything else (a worker lost, a file system hiccup) may pass.
_RETRY_DELAYS = [2.0, 20.0]


def may_pass(task: Any, task_run: Any, state: State) -> bool:
    """Retry condition: not for failures that need a person."""
    return not isinstance(state.result(raise_on_failure=False), Umer1Error)


# The shards' entries are the cache: they survive a lost database and are checked against the files.
TASK_OPTIONS: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": len(_RETRY_DELAYS),
    "retry_delay_seconds": _RETRY_DELAYS,
    "retry_condition_fn": may_pass,
}


def shard_runner(recipe: Recipe) -> TaskRunner[Any]:
    """Runs `recipe.workers` shards at a time, on threads of this machine or on a Ray cluster."""
    if recipe.runner == "threads":
        return ThreadPoolTaskRunner(max_workers=recipe.workers)
    try:
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise RecipeError(
            "The recipe says `runner: ray`, which is not installed.", "pip install 'umer1[ray]'"
        ) from error
    return RayTaskRunner(init_kwargs={"num_cpus": recipe.workers})
