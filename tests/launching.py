"""Start the ranks of a test as users start them, with the configs of deploy/accelerate, on the CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "deploy" / "accelerate"
TIMEOUT_S = 120
# DeepSpeed compiles its collectives for the CPU once, some minutes on a busy machine; no compiler is no failure.
_BUILD = "from deepspeed.comm.torch import build_shm_op; build_shm_op()"
_BUILD_TIMEOUT_S = 480


def launch(config: str, module: str, *arguments: str, options: Sequence[str] = (), killed: bool = False) -> None:
    """Run a module in two ranks and wait; options: of `accelerate launch`, over the config's.

    Fails, with what they wrote, when one fails or the time is over. killed: one kills itself, and must have.
    """
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{config}.yaml")]
    shape = ["--num_processes", "2", "--main_process_port", str(_free_port()), *options]
    command = [*launcher, *shape, "-m", module, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "KINETO_LOG_LEVEL": "99"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"{config}: the ranks wait for each other.\n{(error.stderr or b'').decode()[-4000:]}")
    assert (done.returncode != 0) == killed, f"{config}:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"


def require_deepspeed() -> None:
    """Skip where DeepSpeed is missing; otherwise let it compile what it needs, outside of a test's time."""
    pytest.importorskip("deepspeed", reason="DeepSpeed is an extra: umer1[deepspeed]")
    try:
        subprocess.run(
            [sys.executable, "-c", _BUILD], capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"DeepSpeed's CPU collectives do not compile here: {str(error.stderr)[-300:]}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
