"""Contiguous token repetition of any period: UME-R1 section 2, "extensive contiguous token repetition"."""

from __future__ import annotations

from umer1_core.loops import Run, strongest_run

__all__ = ["Run", "repetition", "strongest_run"]


def repetition(run: Run, min_count: float, min_tokens: int) -> str:
    """The reason, or nothing. `run` is the strongest for the same `min_count`."""
    return "repetition" if run.count >= min_count and run.tokens >= min_tokens else ""
