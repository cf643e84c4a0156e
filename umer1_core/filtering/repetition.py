"""Contiguous token repetition of any period: UME-R1 section 2, "extensive contiguous token repetition"."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from umer1_core.loops import COUNTS


def counts_for(min_count: float) -> tuple[float, ...]:
    """The copies to profile a text for: COUNTS, and the recipe's own where it is none of them."""
    return tuple(sorted({*COUNTS, min_count}))


def repetition(tokens: NDArray[np.integer], min_tokens: int) -> NDArray[np.bool_]:
    """Where the longest run with the recipe's number of copies covers enough tokens to be a loop; 0 is no run."""
    return tokens >= min_tokens
