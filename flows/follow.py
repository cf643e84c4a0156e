"""Starts a deployment run and follows it in the terminal until its data set is built and its student is trained.

    python -m flows.follow build runs/recipe.yaml

`umer1 quickstart`, `build`, `reannotate` and `redrive` come here. When `umer1 up` is not running, the server and the
worker are started for as long as this command lives, and end with it.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from uuid import UUID

import httpx
from rich.console import Console
from rich.markup import escape

from flows.up import DEFAULT_PORT, HOME, api_url, is_healthy, is_up
from schemas.recipe import Recipe
from umer1_core.compat import PARENT_VARIABLE
from umer1_core.console import StatusPrinter, print_summary
from umer1_core.errors import Fatal, Umer1Error
from umer1_core.versions import Version, list_versions, newest, recipe_at

_POLL_SECONDS = 2.0
_UP_SECONDS = 240.0
DEPLOYMENTS = {
    "build": "build-cold-start/default",
    "reannotate": "reannotate/nightly",
    "redrive": "reannotate/nightly",
}


@contextmanager
def ensure_up(port: int, console: Console) -> Iterator[None]:
    """Server, worker and deployments are there while the block runs; started here only when they are not."""
    if is_up(port):
        console.print(f"Using the running umer1: UI at http://127.0.0.1:{port}")
        yield
        return
    log = HOME / f"up-{port}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    console.print("Starting the Prefect server and the worker …")
    with open(log, "wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "flows.up", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {PARENT_VARIABLE: str(os.getpid())},
        )
    try:
        _wait_for_deployments(child, port, str(log))
        console.print(f"UI: http://127.0.0.1:{port}")
        yield
    finally:
        child.terminate()
        try:
            child.wait(40)
        except subprocess.TimeoutExpired:
            child.kill()


def _wait_for_deployments(child: subprocess.Popen[bytes], port: int, log: str) -> None:
    started, deadline = time.time(), time.monotonic() + _UP_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise Fatal(f"The server or the worker ended while starting (exit {child.returncode}).", f"See {log}.")
        if is_healthy(port) and _registered_since(started):
            return
        time.sleep(0.5)
    raise Fatal(f"The worker was not ready after {_UP_SECONDS:g} s.", f"See {log}.")


def _registered_since(started: float) -> bool:
    """Whether the worker has registered its last deployment; an earlier worker's stays in the database."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name("train/default")
        except ObjectNotFound:
            return False
    return deployment.updated is not None and deployment.updated.timestamp() >= started - 1


def start(verb: str, recipe: Recipe, reason: str = "") -> UUID:
    from prefect.client.schemas.objects import FlowRun
    from prefect.deployments import run_deployment

    parameters: dict[str, object] = {"recipe": recipe.dump()}
    if verb == "redrive":
        parameters |= {"mode": verb, "reason": reason}
    run = run_deployment(DEPLOYMENTS[verb], parameters=parameters, timeout=0, as_subflow=False)
    return cast(FlowRun, run).id  # a coroutine only inside an event loop


def follow(run_id: UUID, recipe: Recipe, printer: StatusPrinter, finished: Version | None = None) -> None:
    """Print progress until the flow run ends. Raises Fatal with the run's own message when it did not complete.

    finished: a version that stood before the run; it is shown only when the run has found nothing to do but it.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        while True:
            state = client.read_flow_run(run_id).state
            version = newest(recipe.output)
            if version is not None and (version != finished or (state is not None and state.is_completed())):
                printer.show(version.store)
            if state is not None and state.is_final():
                if not state.is_completed():
                    raise Fatal(
                        _plain(state.message or state.name or ""), "The same command goes on where this run stopped."
                    )
                return
            time.sleep(_POLL_SECONDS)


def requests_sent(recipe: Recipe) -> int:
    """Over all versions of an output."""
    shards = (entry for version in list_versions(recipe.output) for entry in version.store.entries("annotations"))
    return sum(int(entry.metrics["requests"]) for entry in shards)


def follow_through(verb: str, recipe: Recipe, printer: StatusPrinter, reason: str = "") -> Version | None:
    """Start the run and follow it and the training that it starts; the version they made."""
    before = newest(recipe.output)
    finished = before if before and before.store.exists("manifest.json") else None
    try:
        follow(start(verb, recipe, reason), recipe, printer, finished)
        version = newest(recipe.output)
        training = find_training(version.root) if version and recipe.training.enabled else None
        if training is not None:
            follow(training, recipe, printer)
        return version
    finally:
        printer.stop()


def find_training(root: str) -> UUID | None:
    """The newest train run of a data set, or None."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["train"])), sort=FlowRunSort.EXPECTED_START_TIME_DESC
        )
    return next((run.id for run in runs if run.parameters.get("dataset") == root), None)


def _plain(message: str) -> str:
    """Prefect's message without its lead-in: the error's own sentence is what a person needs."""
    text = message.removeprefix("Flow run encountered an exception: ")
    head, colon, rest = text.partition(": ")
    return rest if colon and head.isidentifier() else text


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("verb", choices=sorted(DEPLOYMENTS))
    parser.add_argument("recipe", help="a recipe, or a data set that was made with one")
    parser.add_argument("--reason", default="", help="redrive: only the dead letters of this reason")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    arguments = parser.parse_args()
    os.environ["PREFECT_API_URL"] = api_url(arguments.port)
    console = Console()
    try:
        recipe = recipe_at(arguments.recipe)
        with ensure_up(arguments.port, console):
            before = requests_sent(recipe)
            version = follow_through(arguments.verb, recipe, StatusPrinter(console), arguments.reason)
        if version is not None:
            print_summary(version.store, console)
            console.print(
                f"This run sent {requests_sent(recipe) - before:,} requests to the annotator.", highlight=False
            )
    except Umer1Error as error:
        console.print(
            f"[red]Error:[/] {escape(error.message)}\n{escape(error.remedy)}", highlight=False, soft_wrap=True
        )
        return 1
    except httpx.TransportError as error:
        console.print(
            f"[red]Error:[/] The Prefect server no longer answers ({escape(str(error))}); its log is in {HOME}.\n"
            "The same command goes on where this run stopped.",
            highlight=False,
        )
        return 1
    except KeyboardInterrupt:
        console.print("Stopped. The same command goes on where this run stopped.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
