"""Runs the real main job at reduced size, as a person would: `umer1 build` in a process of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from umer1_core.recipes import MINIATURE_FOLDER
from umer1_core.store import Store


@dataclass(frozen=True)
class Place:
    """A folder with a recipe in it, and a Prefect server of its own (port and database)."""

    folder: Path
    recipe: Path
    port: int

    @property
    def store(self) -> Store:
        return Store(str(self.folder / "out" / "v1"))


def reduced_recipe(folder: Path, **changes: Any) -> Path:
    """The miniature's recipe with a small world and a short training, inside `folder`."""
    text = (MINIATURE_FOLDER / "recipe.yaml").read_text().replace("runs/miniature-world", str(folder / "world"))
    recipe = yaml.safe_load(text)
    recipe["name"], recipe["output"] = "reduced", str(folder / "out")
    recipe["miniature"] |= {"pairs": 240, "held_out": 60}
    recipe["annotation"] |= {"shard_rows": 128}
    recipe["publishing"] = {"rl_pairs": 30}
    recipe["training"] |= {"steps": 24, "checkpoint_every": 6}
    recipe["grpo"] = {
        "enabled": True, "steps": 6, "checkpoint_every": 1, "block_pairs": 4, "group": 2, "micro_pairs": 4,
        "max_new_tokens": 24, "evaluate_every": 6, "evaluate_tokens": 16,
    }  # fmt: skip
    for section, values in changes.items():
        recipe[section] = recipe.get(section, {}) | values
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def make_place(folder: Path, **changes: Any) -> Place:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Place(folder, reduced_recipe(folder, **changes), port)


def start(place: Place, *arguments: str) -> subprocess.Popen[str]:
    """`umer1 …` in a process group of its own, its output in a file."""
    environment = os.environ | {"PREFECT_HOME": str(place.folder / "prefect"), "COLUMNS": "160"}
    environment.pop("PREFECT_API_URL", None)
    command = [str(Path(sys.executable).with_name("umer1")), *arguments, "--port", str(place.port)]
    output = open(place.folder / "output.txt", "a")
    return subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, env=environment, text=True, start_new_session=True
    )


def run(place: Place, *arguments: str, timeout: float = 600) -> tuple[int, str]:
    """Exit code and what was printed."""
    log = place.folder / "output.txt"
    before = log.stat().st_size if log.exists() else 0
    process = start(place, *arguments)
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        _kill_all(process)
        raise
    return code, log.read_text()[before:]


def kill_when(process: subprocess.Popen[str], condition: Callable[[], bool], timeout: float = 300) -> None:
    """kill -9 of the command and all it started, once the condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.1)
    _kill_all(process)


def _kill_all(process: subprocess.Popen[str]) -> None:
    for victim in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended between being listed and being killed
            victim.kill()
    process.wait()
