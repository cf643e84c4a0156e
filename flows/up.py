"""Starts the Prefect server, the worker and the three deployments, with one command.

    umer1 up            (or: python -m flows.up --port 4200)

A server that already answers at the port is used as it is. Everything ends with Ctrl-C.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from rich.console import Console

from umer1_core.compat import PARENT_VARIABLE, end_with_parent
from umer1_core.errors import StorageError
from umer1_core.reports import ADDRESS_VARIABLE, serve_reports
from umer1_core.versions import exclusive, is_held

DEFAULT_PORT = 4200
_BOOT_SECONDS = 180
_WAIT_SECONDS = 0.5
_NIGHTLY = "0 2 * * *"
HOME = Path.home() / ".cache" / "umer1"


def api_url(port: int) -> str:
    return f"http://127.0.0.1:{port}/api"


def lock_root(port: int) -> str:
    """The root whose `up` lock is held while `umer1 up` serves a port."""
    return str(HOME / f"up-{port}")


def is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"{api_url(port)}/health", timeout=3):
            return True
    except (urllib.error.URLError, OSError):
        return False


def is_up(port: int) -> bool:
    """Whether another `umer1 up` serves the port; one that is still starting, or ending, is waited for."""
    while is_held(lock_root(port), "up"):
        if is_healthy(port):
            return True
        time.sleep(_WAIT_SECONDS)
    return False


@contextlib.contextmanager
def server_at(port: int, console: Console) -> Iterator[None]:
    """A Prefect server that answers at the port: the one that is there, or one that ends with the block. Raises
    StorageError, with its log, when it does not start."""
    if is_healthy(port):
        yield
        return
    console.print("Starting the Prefect server …")
    log = HOME / f"prefect-server-{port}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with open(log, "wb") as output:
        # In a process group of its own: a Ctrl-C in the terminal ends who uses it first.
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"DO_NOT_TRACK": "1"},
            process_group=0,
        )
    try:
        _wait_for_server(server, port, log)
        yield
    finally:
        server.terminate()
        server.wait(30)


def _wait_for_server(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _BOOT_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        if is_healthy(port):
            return
        time.sleep(_WAIT_SECONDS)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
    raise StorageError(f"The Prefect server did not start:\n{tail}", f"See {log}; is the port free? umer1 up --port …")


def serve_deployments() -> None:
    """Register the deployments and run what is started on them, until interrupted."""
    # Imported late: flows import Prefect, whose settings must see the port chosen above.
    from prefect import serve
    from prefect.deployments.runner import RunnerDeployment

    from flows.build_cold_start import build_cold_start
    from flows.dead_runs import mark_dead_runs
    from flows.reannotate import reannotate
    from flows.train import train
    from umer1_core.recipes import miniature_recipe

    mark_dead_runs()
    parameters = {"recipe": miniature_recipe().dump()}
    deployments = (
        build_cold_start.to_deployment("default", parameters=parameters, description=build_cold_start.__doc__),
        reannotate.to_deployment("nightly", cron=_NIGHTLY, parameters=parameters, description=reannotate.__doc__),
        train.to_deployment("default", concurrency_limit=1, description=train.__doc__),
    )
    # Coroutines only inside an event loop, which there is not.
    serve(*cast(tuple[RunnerDeployment, ...], deployments), print_starting_message=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    port = parser.parse_args().port
    console = Console(soft_wrap=True, highlight=False)
    end_with_parent()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda *_: sys.exit(0))  # not at once, but past the blocks that end the server
    os.environ["PREFECT_API_URL"] = api_url(port)
    os.environ[PARENT_VARIABLE] = str(os.getpid())  # flow runs are this process's children and end with it
    try:
        if is_up(port):
            console.print(f"umer1 is already up: http://127.0.0.1:{port}")
            return 0
        with exclusive(lock_root(port), "up"), server_at(port, console):
            console.print(
                f"[bold]umer1 is up.[/] UI: [link]http://127.0.0.1:{port}[/]\n"
                "Deployments: build-cold-start/default, reannotate/nightly, train/default. Stop with Ctrl-C.\n"
                f"From another terminal{_hint(port)}: prefect deployment run build-cold-start/default"
            )
            with serve_reports(port + 1) as reports:
                os.environ[ADDRESS_VARIABLE] = reports  # artifacts link to it
                serve_deployments()
    except StorageError as error:
        console.print(f"[red]{error}[/]")
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
    return 0


def _hint(port: int) -> str:
    return " in this folder" if port == DEFAULT_PORT else f" with PREFECT_API_URL={api_url(port)}"


if __name__ == "__main__":
    sys.exit(main())
