"""A training in a process of its own that is killed with -9 at a given moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from schemas.grpo import Grpo
from umer1_core.grpo import loop, train
from umer1_core.grpo.rollouts.with_transformers import WithTransformers
from umer1_core.grpo.train import HeldOut
from umer1_core.grpo.trainer import EmbeddingGRPOTrainer
from umer1_core.store import Store

# What is called at the moment, and the how manieth call it is.
MOMENTS: dict[str, tuple[Any, str, int]] = {
    "while rollouts are sampled": (WithTransformers, "sample", 5),
    "between a checkpoint's weights and its optimizer": (EmbeddingGRPOTrainer, "_save_optimizer_and_scheduler", 2),
    "before a checkpoint is marked": (loop, "mark_complete", 2),
    "while the model is exported": (train, "save_backbone", 1),
    "before it says that it is finished": (train, "checkpoint_hash", 2),
}
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.grpo.killed"])


def run_until(moment: str, root: str, grpo: Grpo, base: str, folder: Path) -> None:
    """Returns when the process has killed itself. Raises AssertionError where it came to another end."""
    process = _SERVER.Process(target=_run, args=(moment, root, grpo, base, str(folder)))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, process.exitcode


def _run(moment: str, root: str, grpo: Grpo, base: str, folder: str) -> None:
    owner, name, call = MOMENTS[moment]
    with patch.object(owner, name, _killing(getattr(owner, name), call)):
        train.train(Store(root), grpo, base, folder, HeldOut())


def _killing(function: Callable[..., Any], at: int) -> Callable[..., Any]:
    calls = 0

    def counted(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **named)

    return counted
