"""What `scores.json` holds, in the columns that every table of it shows: terminal, artifact and report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SCORES = "scores.json"
ROWS = ("generative", "discriminative", "oracle", "chance")

# Part of scores.json, the student it is of, and whether candidates are the targets of all sources.
_AFTER_SFT = (("overall", "trained", False), ("untrained", "untrained", False), ("pooled", "trained", True))
_AFTER_GRPO = (
    ("overall", "GRPO", False),
    ("sft", "SFT", False),
    ("untrained", "untrained", False),
    ("pooled", "GRPO", True),
    ("sft_pooled", "SFT", True),
)


@dataclass(frozen=True, slots=True)
class Column:
    """hit@1 of one student, by row. pooled: all sources' targets at once, and not the mean over sources."""

    student: str
    pooled: bool
    hits: Mapping[str, float]

    @property
    def name(self) -> str:
        return f"{self.student}, pooled" if self.pooled else self.student


def columns(scores: Mapping[str, Any]) -> list[Column]:
    """The trained student first; where it went through GRPO, the student before that stands beside it."""
    parts = _AFTER_GRPO if "sft" in scores else _AFTER_SFT
    return [Column(student, pooled, scores[part]) for part, student, pooled in parts if part in scores]
