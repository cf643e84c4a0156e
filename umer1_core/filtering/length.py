"""Excessively long reasoning: UME-R1 section 2, "e.g. exceeding 8,192 tokens"."""

from __future__ import annotations

from umer1_core.template import THINK_CLOSE, THINK_OPEN


def reasoning_text(completion: str) -> str:
    """What stands between the thinking tags; all that follows the first where the second never came."""
    _, opened, rest = completion.partition(THINK_OPEN)
    return (rest if opened else completion).partition(THINK_CLOSE)[0].strip()


def too_long(reasoning_tokens: int, max_tokens: int) -> str:
    """The reason, or nothing."""
    return "too_long" if reasoning_tokens > max_tokens else ""
