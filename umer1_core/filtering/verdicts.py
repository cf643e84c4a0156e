"""Verdicts from scores: what a recipe's thresholds make of them, for a whole shard at once.

Guarantees: pure, and no text is read, so that judging again is a matter of arrays. Reasons do not hide each other. What
is found and not dropped for is a flag; nothing is both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.recipe import STRICT_FILTERS, Filters
from umer1_core.filtering.burst import language_burst
from umer1_core.filtering.commentary import has_commentary
from umer1_core.filtering.form import NOT_ANNOTATED
from umer1_core.filtering.length import too_long
from umer1_core.filtering.prompt_copy import copies_prompt
from umer1_core.filtering.repetition import repetition
from umer1_core.filtering.summary import summary_too_long
from umer1_core.loops import COUNTS
from umer1_core.template import PROBLEMS

Mask = NDArray[np.bool_]

# In the order in which a verdict names them.
_FORM = (NOT_ANNOTATED, *PROBLEMS, "repetition")
FLAGS = ("language_burst", "commentary", "prompt_copy", "long_summary")
REASONS = (NOT_ANNOTATED, *PROBLEMS, "too_long", "repetition", *FLAGS)
JUDGED = ("kept", "reasons", "flags", "repeat_period", "repeat_count", "repeat_tokens")


def judge(scores: pa.Table, filters: Filters, tokens: NDArray[np.int32], periods: NDArray[np.int32]) -> pa.Table:
    """The columns JUDGED. tokens, periods: of each row's longest run with `filters.repeat_min_count` copies."""
    masks = _form_masks(scores["form"])
    annotated = ~masks[NOT_ANNOTATED]
    masks["too_long"] = too_long(scores["reasoning_tokens"].to_numpy(), filters.max_reasoning_tokens)
    masks["repetition"] |= repetition(tokens, filters.repeat_min_tokens)
    dropped = _beyond_the_paper(scores, filters.model_dump())
    strictly = _beyond_the_paper(scores, STRICT_FILTERS)
    reasons = _names({**masks, **dropped})
    return pa.table(
        [
            pc.equal(pc.list_value_length(reasons), 0),
            reasons,
            _names({name: mask & annotated & ~dropped[name] for name, mask in strictly.items()}),
            pa.array(periods, pa.int32()),
            pa.array(np.divide(tokens, periods, out=np.zeros(len(tokens)), where=periods > 0), pa.float32()),
            pa.array(tokens, pa.int32()),
        ],
        names=list(JUDGED),
    )


def stored_runs(scores: pa.Table, min_count: float) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
    """Tokens and periods of each row's longest run with `min_count` copies; None where the profiles do not tell."""
    if min_count not in COUNTS:
        return None
    place = COUNTS.index(int(min_count))
    profile, periods = (pc.list_element(scores[name], place) for name in ("repeat_profile", "repeat_periods"))
    return profile.to_numpy(), periods.to_numpy()


def _beyond_the_paper(scores: pa.Table, limits: dict[str, Any]) -> dict[str, Mask]:
    return {
        "language_burst": language_burst(scores["burst_chars"].to_numpy(), limits["max_burst_chars"]),
        "commentary": has_commentary(scores["commentary_chars"].to_numpy(), limits["drop_commentary"]),
        "prompt_copy": copies_prompt(scores["prompt_copy"].to_numpy(), limits["max_prompt_copy"]),
        "long_summary": summary_too_long(scores["summary_chars"].to_numpy(), limits["max_summary_chars"]),
    }


def _form_masks(form: pa.ChunkedArray) -> dict[str, Mask]:
    lists = form.combine_chunks()
    codes = pc.index_in(lists.flatten(), value_set=pa.array(_FORM)).to_numpy(zero_copy_only=False)
    rows = pc.list_parent_indices(lists).to_numpy()
    found = np.zeros((len(_FORM), len(lists)), np.bool_)
    found[codes, rows] = True
    return dict(zip(_FORM, found, strict=True))


def _names(masks: dict[str, Mask]) -> pa.ListArray:
    """Per row the names whose mask is set, in the order of REASONS."""
    names = [name for name in REASONS if name in masks]
    table = np.stack([masks[name] for name in names], axis=1)
    offsets = np.concatenate(([0], np.cumsum(table.sum(axis=1)))).astype(np.int32)
    codes = np.nonzero(table)[1].astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(names).take(pa.array(codes)))
