"""The one place that reads embeddings out of hidden states (architecture.md, decision 10; UME-R1 section 3.2).

Guarantee: the state AT the token, its last occurrence inside the span that is given, L2-normalised in fp32, with a
status. The prompt itself holds the literal text `<gen_emb>`; it lies outside the assistant's span and is never read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

Status = Literal["ok", "no_token", "truncated"]


@dataclass(frozen=True, slots=True)
class Reading:
    """vectors: [rows, width], unit length, zero where the status is not ok; statuses: one a row."""

    vectors: Tensor
    statuses: tuple[Status, ...]


def read_embeddings(hidden: Tensor, ids: Tensor, token: int, spans: Tensor, cut: Tensor | None = None) -> Reading:
    """Read one kind of embedding from a batch, packed or padded.

    hidden: [lines, length, width], after the final norm (`last_hidden_state`); ids: [lines, length];
    spans: [rows, 2], first and one past the last place to look at, in `ids.flatten()`;
    cut: [rows], rows that ended at a token limit.
    """
    flat = ids.flatten()
    places = torch.arange(len(flat), device=flat.device)
    last_so_far = torch.where(flat == token, places, -1).cummax(0).values
    starts, ends = spans.unbind(1)
    places_found = last_so_far[(ends - 1).clamp(min=0)]
    found = (places_found >= starts) & (ends > starts)
    states = hidden.flatten(0, 1)[places_found.clamp(min=0)]
    vectors = normalize(states.float(), dim=-1) * found.unsqueeze(1)
    limits = cut.tolist() if cut is not None else [False] * len(spans)
    statuses = [_status(there, limit) for there, limit in zip(found.tolist(), limits, strict=True)]
    return Reading(vectors, tuple(statuses))


def _status(found: bool, cut: bool) -> Status:
    if found:
        return "ok"
    return "truncated" if cut else "no_token"
