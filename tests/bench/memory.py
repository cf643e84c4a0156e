"""What work takes at its peak, each piece in a process of its own, which hands freed memory back (Linux, glibc)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def in_fresh_process(module: str, *arguments: str) -> float:
    """The number that `python -m module arguments` prints."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | _ALLOCATOR)
    return float(json.loads(done.stdout))


def peak_growth(work: Callable[[], object]) -> float:
    """Megabytes that this process holds at the peak of the work, over what it held before."""
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    work()
    return _resident("VmHWM") - before


def _resident(which: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{which}:")[1].split()[0]) / 1024
