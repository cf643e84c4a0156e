"""What all tasks share: which failures a retry may heal, where shards run, how the UI is kept current."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import httpx
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from schemas.recipe import Recipe
from umer1_core.errors import RecipeError, Umer1Error

# Umer1Errors wait for a person; anything else (a worker lost, a file system hiccup) may pass.
_RETRY_DELAYS = [2.0, 20.0]
_BOARD_SECONDS = 3.0


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


@contextmanager
def kept_current(update: Callable[[bool], None]) -> Iterator[None]:
    """Calls `update(last)` every few seconds in a thread while the block runs, and a last time at its end.

    What it updates is a view, read from a run's files: a server that does not answer must not stop the run.
    """
    stop = threading.Event()

    def try_update(last: bool) -> None:
        try:
            update(last)
        except (httpx.HTTPError, PrefectException) as error:
            logging.getLogger(__name__).warning("The run's artifacts could not be updated: %s", error)

    def poll() -> None:
        while not stop.wait(_BOARD_SECONDS):
            try_update(False)
        try_update(True)

    thread = threading.Thread(target=copy_context().run, args=(poll,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=30)
