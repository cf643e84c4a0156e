"""Training and evaluation of one data set."""

import logging
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from typing import IO, cast
from uuid import UUID

import httpx
import psutil
from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import PrefectException

from schemas.recipe import Recipe
from tasks.common import TASK_OPTIONS, shard_runner
from umer1_core.compat import PARENT_VARIABLE
from umer1_core.errors import Fatal
from umer1_core.evaluation.evaluate import evaluate_recipe
from umer1_core.publishing.report import write_report
from umer1_core.reports import report_link
from umer1_core.sampling.held_out import held_out_tables
from umer1_core.sft.curves import curves_svg
from umer1_core.sft.log import EVALUATIONS, STEPS, read_lines
from umer1_core.sft.page import headline, training_page
from umer1_core.sft.parallel import launch_command
from umer1_core.sft.train import train
from umer1_core.status import enter_stage
from umer1_core.store import Store
from umer1_core.versions import local_folder

_PROGRESS_SECONDS, _CURVES_SECONDS = 3.0, 15.0
_POLL_SECONDS, _STOP_SECONDS = 0.5, 45.0
_TAIL = 30
_CURVES = "training.svg"
_SECRETS = ("KEY", "TOKEN", "SECRET", "PASSWORD")


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


# -- what the UI shows meanwhile -------------------------------------------------------------------------------------


@contextmanager
def training_board(store: Store, folder: Path, total: int) -> Iterator[None]:
    """Keeps the artifacts `sft-progress` and `training-curves` current from the log in `folder` while the block runs.

    Whoever trains, this process or others, writes that log. The artifacts stay at their last state.
    """
    board, stop = _Board(store, folder, total), threading.Event()
    thread = threading.Thread(target=copy_context().run, args=(board.run, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=30)


class _Board:
    def __init__(self, store: Store, folder: Path, total: int) -> None:
        self.store, self.folder, self.total = store, folder, total
        self.progress: UUID | None = None
        self.curves: UUID | None = None
        self.drawn = 0.0

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(_PROGRESS_SECONDS):
            self.try_update(time.monotonic() - self.drawn > _CURVES_SECONDS)
        self.try_update(with_curves=True)

    def try_update(self, with_curves: bool) -> None:
        """The board is a view: a server that does not answer must not stop the training that it shows."""
        try:
            self.update(with_curves)
        except (httpx.HTTPError, PrefectException) as error:
            logging.getLogger(__name__).warning("The training's artifacts could not be updated: %s", error)

    def update(self, with_curves: bool) -> None:
        steps = read_lines(self.folder / STEPS)
        percent = 100.0 * steps[-1]["step"] / self.total if steps else 0.0
        said = headline(steps, self.total)
        if self.progress is None:
            # Called without an event loop these return the ids themselves, not coroutines.
            self.progress = cast(UUID, create_progress_artifact(percent, key="sft-progress", description=said))
        else:
            update_progress_artifact(self.progress, percent, description=said)
        if with_curves and steps:
            self._draw(steps, said)
            self.drawn = time.monotonic()

    def _draw(self, steps: list[dict], said: str) -> None:
        evaluations = read_lines(self.folder / EVALUATIONS)
        picture = curves_svg(steps, evaluations)
        link = report_link(self.store, _CURVES)
        if link:
            self.store.write_bytes(f"report/{_CURVES}", picture.encode())
        page = training_page(steps, evaluations, self.total, picture, link)
        if self.curves is None:
            made = create_markdown_artifact(key="training-curves", description=said, markdown=page)
            self.curves = cast(UUID, made)
            return
        with get_client(sync_client=True) as client:
            client.update_artifact(self.curves, ArtifactUpdate(data=page, description=said))


# -- training in processes of their own ------------------------------------------------------------------------------


def run_launched(command: Sequence[str], log: Path, say: Callable[..., None]) -> None:
    """Run a launcher to its end and pass its lines on; all that it prints is kept in `log`.

    Raises Fatal with the last lines when it fails. However this is left, no process that it started stays; to those
    the environment names this process, for them to end when it is killed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    tail: deque[str] = deque(maxlen=_TAIL)
    with open(log, "ab") as output, open(log, "rb") as written:
        written.seek(0, os.SEEK_END)
        process = psutil.Popen(
            command,
            env=os.environ | {PARENT_VARIABLE: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        started: set[psutil.Process] = set()
        lines = _Lines(written)
        try:
            while process.poll() is None:
                started |= _children(process)
                lines.pass_on(say, tail)
                time.sleep(_POLL_SECONDS)
        finally:
            _end({process} | started | _children(process))
            lines.pass_on(say, tail)
    if process.returncode:
        said = "\n".join(tail)
        raise Fatal(f"The launched training ended with {process.returncode}:\n{said}", f"The whole log: {log}")


class _Lines:
    """What is appended to a log: whole lines without what is secret, of a progress bar its last state."""

    def __init__(self, written: IO[bytes]) -> None:
        self.written, self.rest = written, b""
        self.hidden = [value for name, value in os.environ.items() if name.endswith(_SECRETS) and len(value) > 7]

    def pass_on(self, say: Callable[..., None], tail: deque[str]) -> None:
        *whole, self.rest = (self.rest + self.written.read()).split(b"\n")
        for line in whole:
            text = line.decode(errors="replace").rstrip().rpartition("\r")[2]
            for value in self.hidden:
                text = text.replace(value, "***")
            if text:
                say("%s", text)
                tail.append(text)


def _children(process: psutil.Popen) -> set[psutil.Process]:
    try:
        return set(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return set()  # it has ended; what it started is known from before


def _end(members: set[psutil.Process]) -> None:
    """End a launcher and all that it started: workers lead sessions of their own, which no group's signal reaches."""
    alive = [member for member in members if member.is_running()]
    for member in alive:
        with suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(alive, timeout=_STOP_SECONDS)
    for member in alive:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(alive)


def _headline(overall: dict[str, float]) -> str:
    return f"gen {overall['generative']:.3f}, disc {overall['discriminative']:.3f}"


def _table(scores: dict) -> str:
    lines = ["# Held-out hit@1", "", "| | trained | untrained |", "|---|---:|---:|"]
    for name in ("generative", "discriminative", "oracle", "chance"):
        lines.append(f"| {name} | {scores['overall'][name]:.3f} | {scores['untrained'][name]:.3f} |")
    return "\n".join(lines)
