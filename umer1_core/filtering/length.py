"""Excessively long reasoning: UME-R1 section 2, "e.g. exceeding 8,192 tokens"."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from umer1_core.template import THINK_CLOSE, THINK_OPEN


def reasoning_span(completion: str) -> tuple[int, int]:
    """Where the text between the thinking tags starts, after white space, and where the closing tag is.

    All that follows the first tag where the second never came; all of a completion without tags. Empty where start is
    not before end.
    """
    opened = completion.find(THINK_OPEN)
    start = opened + len(THINK_OPEN) if opened >= 0 else 0
    closed = completion.find(THINK_CLOSE, start)
    end = closed if closed >= 0 else len(completion)
    while start < end and completion[start].isspace():
        start += 1
    return start, end


def too_long(reasoning_tokens: NDArray[np.integer], max_tokens: int) -> NDArray[np.bool_]:
    """Where there is too much of it."""
    return reasoning_tokens > max_tokens
