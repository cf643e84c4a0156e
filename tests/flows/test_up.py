"""`umer1 up` beside itself and after itself, ended as a terminal and as a supervisor end it."""

import os
import signal
import threading
import time

import psutil
import pytest

from flows import up
from tests.flows.main_job import Place, make_place, start
from umer1_core.versions import exclusive


@pytest.fixture
def place(tmp_path):
    place = make_place(tmp_path)
    yield place
    for process in psutil.process_iter(["cmdline"]):
        if str(place.port) in (process.info["cmdline"] or []):
            process.kill()


def wait_for(place: Place, text: str) -> str:
    """What was printed, once it has the text."""
    deadline = time.monotonic() + 120
    while text not in (printed := (place.folder / "output.txt").read_text()):
        assert time.monotonic() < deadline, printed
        time.sleep(0.2)
    return printed


@pytest.mark.slow
def test_it_is_up_once_and_a_ctrl_c_ends_it_and_its_server_without_noise(place):
    first = start(place, "up")
    wait_for(place, "umer1 is up.")
    time.sleep(8)  # its worker listens to the server, and would complain of one that ended first
    assert start(place, "up").wait(60) == 0
    wait_for(place, "umer1 is already up")
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(60) == 0 and not up.is_healthy(place.port)
    assert "Traceback" not in (printed := wait_for(place, "umer1 is up.")), printed


@pytest.mark.slow
def test_a_supervisor_may_end_it_while_it_starts(place):
    process = start(place, "up")
    wait_for(place, "Starting the Prefect server")
    time.sleep(1)
    process.terminate()
    assert process.wait(60) == 0 and not up.is_healthy(place.port)
    servers = [p for p in psutil.process_iter(["cmdline"]) if str(place.port) in (p.info["cmdline"] or [])]
    assert not servers


def test_one_that_is_ending_is_waited_for(tmp_path, monkeypatch):
    """Its server may already be gone, or be about to go; without the wait the next one would use it."""
    monkeypatch.setattr(up, "HOME", tmp_path)
    monkeypatch.setattr(up, "is_healthy", lambda port: False)
    ended = threading.Event()

    def hold() -> None:
        with exclusive(up.lock_root(1), "up"):
            ended.wait(1.2)

    holder = threading.Thread(target=hold)
    holder.start()
    time.sleep(0.2)
    assert not up.is_up(1)
    holder.join()
