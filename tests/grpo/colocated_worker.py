"""A trainer with an engine of its own, for test_colocated.py: rollouts of two policies as JSON, then it waits."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tests.grpo.vllm_policy import policy, prompts_of, sampling, saver
from umer1_core.grpo.rollouts.colocated import Colocated


def main(folder: Path) -> None:
    first, second = policy(folder / "first"), policy(folder / "second", noise=1)
    prompts, how = prompts_of(first, folder), sampling(first)
    rollouts = Colocated(how, first.ids, folder / "weights", first.device, max_model_len=1_024, max_num_seqs=32)
    found = []
    for step, backbone in enumerate((first, second)):
        rollouts.load(step, saver(backbone))
        groups = rollouts.sample(prompts, 3, seed=4)
        found.append([[(c.ids, c.logprobs) for c in group] for group in groups])
    (folder / "found.part").write_text(json.dumps(found))
    (folder / "found.part").rename(folder / "found.json")
    time.sleep(600)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
