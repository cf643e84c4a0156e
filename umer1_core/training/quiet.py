"""Keeps libraries from telling a person about themselves, where a training shows its own progress."""

from __future__ import annotations

import logging
import warnings

from transformers.utils.logging import disable_progress_bar

_CHATTER = (
    "TRL currently supports vLLM versions",  # of its own vLLM client, which is not used
    "You are using 'rollout_func'",  # tests/grpo/test_contract.py holds what is relied on
)


def quiet_libraries() -> None:
    """For the rest of this process, and before TRL is imported: commands and tasks call it, the library does not."""
    for beginning in _CHATTER:
        warnings.filterwarnings("ignore", message=beginning, category=UserWarning)
    # TRL imports vLLM where it is installed, which then tells what its CPU build lacks.
    logging.getLogger("vllm.triton_utils").setLevel(logging.ERROR)
    disable_progress_bar()  # of loading and saving weights
