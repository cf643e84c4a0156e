"""Language bursts: words of a script that does not belong there, as stray Chinese words in English reasoning.

Only other scripts than Latin are looked for: Latin names, units and loan words stand in texts of every script.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

# Letters by script, as Unicode ranges. Han and kana are one: Japanese has both.
_RANGES = {
    "greek": "\u0370-\u03ff\u1f00-\u1fff",
    "cyrillic": "\u0400-\u052f\u1c80-\u1c8f\u2de0-\u2dff\ua640-\ua69f",
    "armenian": "\u0530-\u058f",
    "hebrew": "\u0590-\u05ff\ufb1d-\ufb4f",
    "arabic": "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufefc",
    "devanagari": "\u0900-\u097f\ua8e0-\ua8ff",
    "indic": "\u0980-\u0dff",
    "thai": "\u0e00-\u0e7f",
    "lao": "\u0e80-\u0eff",
    "tibetan": "\u0f00-\u0fff",
    "myanmar": "\u1000-\u109f",
    "georgian": "\u10a0-\u10ff\u1c90-\u1cbf",
    "ethiopic": "\u1200-\u139f",
    "khmer": "\u1780-\u17ff",
    "hangul": "\u1100-\u11ff\u3131-\u318f\ua960-\ua97f\uac00-\ud7ff",
    "han": "\u2e80-\u2fdf\u3005-\u3007\u3041-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff",
}
_RUNS = re.compile("|".join(f"(?P<{script}>[{ranges}]+)" for script, ranges in _RANGES.items()))
_OTHER = re.compile(f"[{''.join(_RANGES.values())}]")
_FIRST = 0x370  # below it are Latin letters, marks and modifiers
# What is quoted was read in the picture or taken from a name; it is no slip of the language.
_OPENING, _CLOSING = frozenset("\"'“‘«‹「『《〈（([【`*"), frozenset("\"'”’»›」』》〉）)]】`*")
_SYMBOLS = {"greek": 4}  # shorter runs are symbols: α, ΔT, μm


def burst_chars(completion: str, side_text: str) -> int:
    """Letters in the longest run of a script that neither the side's text has nor most of the completion is in.

    Runs in quotation marks or brackets do not count, nor do Greek letters used as symbols.
    """
    if completion.isascii():
        return 0
    # Nearly every other English completion ends here: it has dashes, curly quotation marks and accents.
    codes = np.frombuffer(completion.encode("utf-32-le", "replace"), np.uint32)
    if not _OTHER.search("".join(map(chr, codes[codes >= _FIRST]))):
        return 0
    letters: dict[str, int] = {}
    longest: dict[str, int] = {}
    for run in _RUNS.finditer(completion):
        script, size = str(run.lastgroup), run.end() - run.start()
        letters[script] = letters.get(script, 0) + size
        if size >= _SYMBOLS.get(script, 1) and not _quoted(completion, run.start(), run.end()):
            longest[script] = max(size, longest.get(script, 0))
    known = {str(run.lastgroup) for run in _RUNS.finditer(side_text)} if longest else set()
    most = len(completion) / 2
    return max((size for script, size in longest.items() if script not in known and letters[script] <= most), default=0)


def language_burst(chars: NDArray[np.integer], max_chars: int) -> NDArray[np.bool_]:
    """Where the run is too long; a limit of 0 is none."""
    return (chars > max_chars) & (max_chars > 0)


def _quoted(text: str, start: int, end: int) -> bool:
    return start > 0 and end < len(text) and text[start - 1] in _OPENING and text[end] in _CLOSING
