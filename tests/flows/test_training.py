"""A training in processes of its own is followed and never left behind; what the UI shows of one."""

import json
import shutil
import sys
import time
from pathlib import Path

import psutil
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State

import flows.train as flow_of_training
from tasks.launching import run_launched
from tasks.training_board import training_board
from tests.grpo.table import TINY, pairs_of, rl_store, saved_student
from tests.test_recipes import SMALL
from umer1_core.errors import Fatal
from umer1_core.status import read_status
from umer1_core.store import Store
from umer1_core.training.watch.log import RunLog
from umer1_core.training.watch.sheets import SFT

# A launcher whose worker leads a session of its own, as those of torch's elastic launcher do.
LAUNCHER = (
    "import subprocess, sys;"
    "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True);"
    "print('worker', worker.pid, flush=True);"
)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


class Said:
    """What was passed on; with `until`, the run is cancelled at a line that starts so."""

    def __init__(self, until: str = "\0") -> None:
        self.lines: list[str] = []
        self.until = until

    def __call__(self, form: str, *values: str) -> None:
        self.lines.append(form % values)
        if self.lines[-1].startswith(self.until):
            raise KeyboardInterrupt

    @property
    def worker(self) -> int:
        return next(int(line.split()[1]) for line in self.lines if line.startswith("worker"))


def test_lines_are_passed_on_and_kept(tmp_path):
    said, log = Said(), tmp_path / "sft" / "launch.log"
    code = r"import sys; print('one'); print('1%\r50%\r100%'); print(); print('two', file=sys.stderr); print('é')"
    run_launched(python(code), log, said)
    assert sorted(said.lines) == sorted(["one", "100%", "two", "é"])
    run_launched(python("print('three')"), log, said)
    assert said.lines[4:] == ["three"] and "one" in log.read_text(), "a log goes on, and is told once"


def test_secrets_of_the_environment_are_not_passed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    said = Said()
    run_launched(python("import os; print('with', os.environ['HF_TOKEN'])"), tmp_path / "log", said)
    assert said.lines == ["with ***"]


def test_a_failure_is_fatal_and_shows_the_last_lines(tmp_path):
    with pytest.raises(Fatal, match="CUDA out of memory") as caught:
        run_launched(python("print('start'); raise SystemExit('CUDA out of memory')"), tmp_path / "log", Said())
    assert str(tmp_path / "log") in caught.value.remedy and "with 1" in caught.value.message


def test_a_failure_that_a_command_explains_is_told_in_its_words_and_not_in_the_launchers(tmp_path):
    code = (
        "print('Error: no student.\\nTrain one.\\nError: no student.\\nTrain one.\\nW11 closing'); raise SystemExit(1)"
    )
    with pytest.raises(Fatal, match="ended with 1") as caught:
        run_launched(python(code), tmp_path / "log", Said())
    assert caught.value.message.endswith(":\nno student.\nTrain one.")


def test_a_cancelled_run_leaves_no_worker(tmp_path):
    said = Said(until="worker")
    with pytest.raises(KeyboardInterrupt):
        run_launched(python(LAUNCHER + "worker.wait()"), tmp_path / "log", said)
    assert not psutil.pid_exists(said.worker)


def test_a_launcher_that_dies_leaves_no_worker(tmp_path):
    said = Said()
    with pytest.raises(Fatal, match="-9"):
        code = LAUNCHER + "import os, time; time.sleep(2); os.kill(os.getpid(), 9)"
        run_launched(python(code), tmp_path / "log", said)
    # Nobody is left to wait for an orphan's end but the system's first process.
    deadline = time.monotonic() + 10
    while psutil.pid_exists(said.worker) and psutil.Process(said.worker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_ui_gets_progress_and_curves(tmp_path: Path):
    @flow
    def one() -> None:
        with training_board(Store(str(tmp_path)), tmp_path, 4, SFT, "sft"), RunLog(tmp_path) as log:
            for step in (1, 2):
                log.step({"step": step, "loss": 1.0 / step, "disc": 0.5, "hit_disc": 0.5, "tokens_per_s": 900.0})
            log.evaluation({"step": 2, "hit": 0.5, "hit_disc": 0.5})

    one()
    with get_client(sync_client=True) as client:
        found = {artifact.key: artifact for artifact in client.read_artifacts()}
    assert float(json.loads(str(found["sft-progress"].data))) == 50.0
    page = str(found["sft-curves"].data)
    assert "step 2 of 4" in page and "data:image/svg+xml;base64," in page and "held-out hit@1 0.500" in page


@pytest.fixture
def reinforced(tmp_path: Path, monkeypatch) -> tuple[Store, State]:
    """A flow run whose GRPO a guard stops, with stand-ins for the flow's other tasks; its data set and its end."""
    store = rl_store(tmp_path, pairs_of(tmp_path))
    shutil.copytree(saved_student(tmp_path), Path(store.root) / "sft" / "model")
    guards = {"window": 2, "warm_up": 0, "max_kl": 1e-12}
    recipe = SMALL | {
        "training": {"model": "miniature", "held_out_pairs": 0},
        "grpo": TINY.model_dump() | {"enabled": True, "steps": 6, "checkpoint_every": 1, "guards": guards},
    }
    store.write_json("manifest.json", {"recipe": recipe, "data_hash": "h"})
    store.write_json("_VALIDATED.json", {"data_hash": "h"})
    for name, result in (
        ("train_student", None), ("sample_held_out", ""), ("evaluate_student", {"generative": 0.5}),
        ("refresh_report", None),
    ):  # fmt: skip
        monkeypatch.setattr(flow_of_training, name, lambda *_, result=result, **__: result)
    return store, flow_of_training.train(store.root, return_state=True)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_grpo_that_a_guard_stops_ends_the_run_with_its_words_and_with_scores(reinforced):
    store, state = reinforced
    assert state.is_completed() and state.name == "Stopped by a guard"
    assert state.message.startswith("GRPO was stopped by a guard. Step ") and "kl is" in state.message
    assert state.result() == {"generative": 0.5}
    assert store.exists("grpo/model/config.json"), "the model that was kept is what is evaluated"
    assert read_status(store).stages[-2].finished
    with get_client(sync_client=True) as client:
        found = {artifact.key: artifact for artifact in client.read_artifacts()}
    assert "step 3 of 6" in found["grpo-progress"].description and "reward" in found["grpo-progress"].description
    assert "GRPO" in str(found["grpo-curves"].data)
    assert state.message in found["grpo-report"].description and state.message in str(found["grpo-report"].data)
