"""One rank of a real, short training, started like `worker`; with KILL_AT its rank 0 is killed after that step.

accelerate launch --config_file … --num_processes 2 -m tests.sft.parallel.distributed.train_worker DATA FOLDER [KILL_AT]
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from tests.sft.short import SHORT
from umer1_core.sft.train import train
from umer1_core.store import Store
from umer1_core.training.ranks import leave_ranks

# Sharded weights are trained with AdamW alone.
TRAINING = SHORT.model_copy(update={"optimizer": "adamw", "steps": 6, "evaluate_every": 3, "checkpoint_every": 2})


def main(root: str, folder: str, kill_at: int = 0) -> None:
    def die(record: dict[str, Any]) -> None:
        if record["step"] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    train(Store(root), TRAINING, folder, die)
    leave_ranks()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
