"""What vLLM's worker learns for rollouts, through its own `--worker-extension-cls`: it gets these methods."""

from __future__ import annotations

import os
from typing import Any

from umer1_core.compat import PARENT_VARIABLE, end_with_starter

WORKER = "umer1_core.grpo.rollouts.vllm_worker.PolicyWorker"


class PolicyWorker:
    """Called by name, through `collective_rpc`."""

    model_runner: Any
    reload_weights: Any

    def load_policy(self) -> None:
        """Read the weights again from the folder they came from.

        The CPU keeps a packed copy of the head. Where the head is tied to the embeddings no weight of its own is read,
        so vLLM 0.32 would go on with the old copy.
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        self.reload_weights()
        for module in self.model_runner.get_model().modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def end_with(self, trainer: int) -> None:
        """End when this process does, also where it is killed with -9; the engine ends with its worker.

        Left to itself, the engine of a process that was killed stays and keeps its memory.
        """
        os.environ[PARENT_VARIABLE] = str(trainer)
        end_with_starter()
