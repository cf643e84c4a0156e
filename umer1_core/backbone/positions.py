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
    """vectors: [batch, width], unit length, zero where the status is not ok; statuses: one a row."""

    vectors: Tensor
    statuses: tuple[Status, ...]


def read_embeddings(hidden: Tensor, ids: Tensor, token: int, spans: Tensor, cut: Tensor | None = None) -> Reading:
    """Read one kind of embedding from a batch.

    hidden: [batch, length, width], after the final norm (`last_hidden_state`); ids: [batch, length];
    spans: [batch, 2], first and one past the last place to look at; cut: [batch], rows that ended at a token limit.
    """
    places = torch.arange(ids.shape[1], device=ids.device)
    inside = (places >= spans[:, :1]) & (places < spans[:, 1:])
    found = torch.where((ids == token) & inside, places, -1).amax(1)
    states = hidden[torch.arange(len(ids), device=ids.device), found.clamp(min=0)]
    vectors = normalize(states.float(), dim=-1) * (found >= 0).unsqueeze(1)
    limits = cut.tolist() if cut is not None else [False] * len(ids)
    statuses = [_status(place >= 0, limit) for place, limit in zip(found.tolist(), limits, strict=True)]
    return Reading(vectors, tuple(statuses))


def _status(found: bool, cut: bool) -> Status:
    if found:
        return "ok"
    return "truncated" if cut else "no_token"
