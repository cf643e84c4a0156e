"""Copies of the prompt: reasoning that recites the annotation prompt instead of looking at the input.

Restating the input itself is what reasoning does, so only the instruction counts.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from umer1_core.template import ANNOTATION_PROMPT

_GRAM, _PART = 8, 4
_STRIDE = _GRAM - _PART + 1


def _grams(words: list[str], size: int, step: int = 1) -> Iterable[str]:
    return (" ".join(words[start : start + size]) for start in range(0, len(words) - size + 1, step))


_WORDS = ANNOTATION_PROMPT.split()
_COPIES = frozenset(_grams(_WORDS, _GRAM))
# Eight words of the prompt hold four that start at every fifth of its words.
_PARTS = tuple(_grams(_WORDS, _PART, _STRIDE))


def prompt_copy(reasoning: str) -> float:
    """Share of the reasoning's runs of eight words that stand in the annotation prompt, 0 to 1."""
    text = reasoning.replace("\n", " ")
    if "  " in text or "\t" in text:
        text = " ".join(text.split())
    if not any(part in text for part in _PARTS):
        return 0.0
    words = text.split()
    copied = sum(gram in _COPIES for gram in _grams(words, _GRAM))
    return copied / max(1, len(words) - _GRAM + 1)


def copies_prompt(share: NDArray[np.floating], max_share: float) -> NDArray[np.bool_]:
    """Where too much is copied; a limit of 0 is none."""
    return (share > max_share) & (max_share > 0)
