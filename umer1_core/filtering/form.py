"""Completions without the form `<think>…</think><answer>…`: UME-R1 section 2.

How the server ended a completion is part of its form: at the token limit (`length`), or because it looped
(`repetition`, vLLM's own detection).
"""

from __future__ import annotations

from umer1_core.template import Response

NOT_ANNOTATED = "not_annotated"
_ENDS = {"length": "truncated", "repetition": "repetition"}


def was_cut(finish_reason: str) -> bool:
    """Whether the server ended the completion, so that an answer without its closing tag is not whole."""
    return finish_reason in _ENDS


def form_reasons(response: Response, finish_reason: str) -> list[str]:
    """All reasons. A completion that reached the limit and still has the whole form is not truncated."""
    reasons = [response.problem] if response.problem else []
    end = _ENDS.get(finish_reason, "")
    if end == "truncated" and not response.problem:
        return reasons
    return [*reasons, end] if end and end not in reasons else reasons
