"""Commentary after the summary: the annotator justifies or rewords what it has just said (UME-R1 appendices D and H).

Cleaning leaves it out of the summary (umer1_core.template.split_answer), so that it costs nothing to keep the side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from umer1_core.template import Response


def commentary_chars(response: Response) -> int:
    """Characters of the answer that are neither the summary nor tags, labels or emphasis; a line end counts as one."""
    return len(response.commentary)


def has_commentary(chars: NDArray[np.integer], drop: bool) -> NDArray[np.bool_]:
    """Where anything but the summary is said; nowhere unless `drop`."""
    return (chars > 0) & drop
