"""One rank of a real, short training, started like `step_worker`; with KILL_AT its rank 0 is killed after that step.

accelerate launch --config_file … --num_processes 2 -m tests.grpo.distributed.train_worker DATA BASE FOLDER [KILL_AT]
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from tests.grpo.short import SHORT
from umer1_core.grpo.train import HeldOut, train
from umer1_core.store import Store
from umer1_core.training.ranks import leave_ranks


def main(root: str, base: str, folder: str, kill_at: int = 0) -> None:
    def die(record: dict[str, Any]) -> None:
        if record["step"] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    train(Store(root), SHORT, base, folder, HeldOut(), die)
    leave_ranks()


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
