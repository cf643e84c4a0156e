"""What libraries say of themselves is not shown; what they say of a training is."""

import warnings

import pytest

from umer1_core.training.quiet import quiet_libraries

VLLM = "TRL currently supports vLLM versions from 0.22.0 to 0.31.0. You have version 0.32.0 installed."


@pytest.mark.parametrize(("message", "shown"), [(VLLM, False), ("The loss is not finite.", True)])
def test_only_the_chatter_is_kept_from_the_terminal(message, shown):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        quiet_libraries()
        warnings.warn(message, UserWarning, stacklevel=1)
    assert bool(told) == shown
