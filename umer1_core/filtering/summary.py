"""Over-long summaries: UME-R1 appendix D asks for "a single word or a concise sentence". Empty ones lack the form."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from umer1_core.template import Response


def summary_chars(response: Response) -> int:
    """Characters of the cleaned summary."""
    return len(response.summary)


def summary_too_long(chars: NDArray[np.integer], max_chars: int) -> NDArray[np.bool_]:
    """Where it is too long; a limit of 0 is none."""
    return (chars > max_chars) & (max_chars > 0)
