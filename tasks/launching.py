"""Training in processes of its own: a launcher is started, followed, and ended with all that it started."""

import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from umer1_core.compat import PARENT_VARIABLE
from umer1_core.errors import Fatal

_POLL_SECONDS, _STOP_SECONDS = 0.5, 45.0
_TAIL = 30
_ERROR = "Error: "  # how a command begins that fails for a reason a person can mend
_SECRETS = ("KEY", "TOKEN", "SECRET", "PASSWORD")


def run_launched(command: Sequence[str], log: Path, say: Callable[..., None]) -> None:
    """Run a launcher to its end and pass its lines on; all that it prints is kept in `log`.

    Raises Fatal when it fails, with what a command of ours said of it, otherwise with the last lines. However this is
    left, no process that it started stays; to those the environment names this process, for them to end when it is
    killed.
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
        said = lines.error or "\n".join(tail)
        raise Fatal(f"The launched training ended with {process.returncode}:\n{said}", f"The whole log: {log}")


class _Lines:
    """What is appended to a log: whole lines without what is secret, of a progress bar its last state.

    error: the first sentence of a command of ours that failed, with the line after it, which says what to do. A
    launcher's own account of the failure follows, of every process.
    """

    def __init__(self, written: IO[bytes]) -> None:
        self.written, self.rest = written, b""
        self.error = ""
        self.hidden = [value for name, value in os.environ.items() if name.endswith(_SECRETS) and len(value) > 7]

    def pass_on(self, say: Callable[..., None], tail: deque[str]) -> None:
        *whole, self.rest = (self.rest + self.written.read()).split(b"\n")
        for line in whole:
            text = line.decode(errors="replace").rstrip().rpartition("\r")[2]
            for value in self.hidden:
                text = text.replace(value, "***")
            if text:
                if not self.error and tail and tail[-1].startswith(_ERROR):
                    self.error = f"{tail[-1].removeprefix(_ERROR)}\n{text}"
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
