"""How processes are started, and what a process was started for."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from umer1_core.errors import Fatal

Kind = Literal["one", "ddp", "fsdp2", "deepspeed"]


def launched_kind() -> Kind:
    """What `accelerate launch` or torchrun started this process for."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        return "deepspeed"
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        return "fsdp2"
    return "ddp" if "LOCAL_RANK" in os.environ else "one"


def launch_command(config_file: str | Path, arguments: Sequence[str], processes: int = 0) -> list[str]:
    """The command that runs `umer1 …arguments` in the processes of an accelerate config; 0: in as many as it says.

    Raises Fatal when there is no such file.
    """
    if not Path(config_file).is_file():
        raise Fatal(f"{config_file} is no file.", "Name an accelerate config in the recipe: see deploy/accelerate.")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config_file)]
    launcher += ["--num_processes", str(processes)] if processes else []
    return [*launcher, "-m", "umer1_core.cli", *arguments]
