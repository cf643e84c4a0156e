"""What a completion is worth, and how the next one is asked for (UME-R1 section 2: cut, looping and malformed ones
are dropped; here they are asked for again first, where the recipe says so).

Pure. The judgement is a quick one on words, to save a generation that the filters would drop; the filters decide.
"""

from __future__ import annotations

import numpy as np

from schemas.recipe import Annotation
from umer1_core.annotation.client import Reply
from umer1_core.loops import strongest_run
from umer1_core.template import parse_annotation

OK, CUT, LOOP, MALFORMED = "ok", "cut", "loop", "malformed"
_LOOP_COPIES, _LOOP_WORDS = 4.0, 24
_HOTTEST = 2.0


def judge(reply: Reply) -> str:
    """`ok`, or why the completion cannot be used."""
    if reply.finish_reason == "repetition":
        return LOOP
    cut = reply.finish_reason == "length"
    if loops(reply.text):
        return LOOP
    if cut:
        return CUT
    return MALFORMED if parse_annotation(reply.text).problem else OK


def loops(text: str) -> bool:
    """Whether some span of words is repeated contiguously, over at least 24 words: the filter's rule, coarser."""
    words = text.split()
    if len(words) < _LOOP_WORDS:
        return False
    numbers: dict[str, int] = {}
    ids = np.fromiter((numbers.setdefault(word, len(numbers)) for word in words), np.int64, len(words))
    # A loop repeats all but the first of its copies, three words at a time; running text repeats few such triples.
    triples = (ids[:-2] * len(numbers) + ids[1:-1]) * len(numbers) + ids[2:]
    if len(triples) - len(np.unique(triples)) < _LOOP_WORDS * (1 - 1 / _LOOP_COPIES) - 2:
        return False
    run = strongest_run(ids, _LOOP_COPIES)
    return run.count >= _LOOP_COPIES and run.tokens >= _LOOP_WORDS


def temperature(annotation: Annotation, rung: int) -> float:
    """Of the `rung`-th completion asked for, from 1."""
    return min(_HOTTEST, annotation.completion.temperature + annotation.ladder.temperature_step * (rung - 1))
