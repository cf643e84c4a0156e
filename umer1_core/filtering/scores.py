"""The scores of completions: everything about a verdict that no threshold decides, one row a completion.

Guarantees: pure; a score depends on the completion, how it ended, the side's text and the tokenizer alone. A change of
what is measured raises SCORES_VERSION, as a change of cleaning raises CLEAN_VERSION.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from umer1_core.filtering.burst import burst_chars
from umer1_core.filtering.commentary import commentary_chars
from umer1_core.filtering.form import NOT_ANNOTATED, form_reasons, was_cut
from umer1_core.filtering.prompt_copy import prompt_copy
from umer1_core.filtering.repetition import counts_for
from umer1_core.filtering.summary import summary_chars
from umer1_core.filtering.tokens import Encoded
from umer1_core.loops import COUNTS, profiles
from umer1_core.store import Store, fingerprint
from umer1_core.template import CLEAN_VERSION, parse_annotation

SCORES_VERSION = "scores/1"
FAILED = "error"  # the finish reason of a side that could not be annotated

SCORES = (
    "form", "reasoning", "summary", "reasoning_tokens", "repeat_profile", "repeat_periods", "burst_chars",
    "commentary_chars", "prompt_copy", "summary_chars",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Completions:
    """What was written for sides, row by row; a side without an annotation has an empty text and FAILED."""

    texts: Sequence[str]
    finish_reasons: Sequence[str]
    side_texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Loops:
    """The longest runs for `counts`, int32 [rows, counts] each: tokens covered and period; zeros for none."""

    counts: tuple[float, ...]
    tokens: NDArray[np.int32]
    periods: NDArray[np.int32]


def scores_fingerprint(store: Store, shard: str, tokenizer: str) -> str:
    """Over all that a shard's scores depend on. `tokenizer`: its identity (tokens.tokenizer_identity)."""
    made_of = [store.entry(table, shard) for table in ("sides", "annotations")]
    return fingerprint([entry and entry.checksum for entry in made_of], tokenizer, CLEAN_VERSION, SCORES_VERSION)


def find_loops(encoded: Encoded, min_count: float) -> Loops:
    """Profiles for COUNTS, and for the recipe's own count where it is none of them."""
    counts = counts_for(min_count)
    return Loops(counts, *profiles(encoded.ids, encoded.offsets, counts))


def score(completions: Completions, reasoning_tokens: NDArray[np.int32], loops: Loops) -> pa.Table:
    """The columns SCORES."""
    columns: list[list[object]] = [[] for _ in range(7)]
    for text, finish, side_text in zip(
        completions.texts, completions.finish_reasons, completions.side_texts, strict=True
    ):
        for column, value in zip(columns, _score_text(text, finish, side_text), strict=True):
            column.append(value)
    form, reasoning, summary, burst, commentary, copied, long = columns
    known = [loops.counts.index(count) for count in COUNTS]
    arrays = [
        pa.array(form, pa.list_(pa.string())),
        pa.array(reasoning, pa.string()),
        pa.array(summary, pa.string()),
        pa.array(reasoning_tokens, pa.int32()),
        _lists(loops.tokens[:, known]),
        _lists(loops.periods[:, known]),
        pa.array(burst, pa.int32()),
        pa.array(commentary, pa.int32()),
        pa.array(copied, pa.float32()),
        pa.array(long, pa.int32()),
    ]
    return pa.table(arrays, names=list(SCORES))


def _score_text(text: str, finish: str, side_text: str) -> tuple[list[str], str, str, int, int, float, int]:
    if finish == FAILED:
        return [NOT_ANNOTATED], "", "", 0, 0, 0.0, 0
    response = parse_annotation(text, truncated=was_cut(finish))
    return (
        form_reasons(response, finish),
        response.reasoning,
        response.summary,
        burst_chars(text, side_text),
        commentary_chars(response),
        prompt_copy(response.reasoning),
        summary_chars(response),
    )


def _lists(values: NDArray[np.int32]) -> pa.ListArray:
    rows, width = values.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values).reshape(-1)))
