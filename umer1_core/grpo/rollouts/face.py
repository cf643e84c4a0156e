"""One face for every source of rollouts: prompts in, a group of completions each out, from the weights last loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from umer1_core.backbone.collate import Row
from umer1_core.pairs import Media

SaveWeights = Callable[[Path], None]
"""Writes the policy as a plain checkpoint into an empty folder."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A side to reason about. text: its user turn; row: the same, encoded, without a response."""

    key: str
    text: str
    media: tuple[Media, ...]
    row: Row


@dataclass(frozen=True, slots=True)
class Completion:
    """One rollout. ids: as sampled, the end of the turn included where it was written.

    logprobs: of the sampler, one an id, where it tells them; vector: [width], of unit length, the state at the last
    `<gen_emb>`, where the sampler has read it.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None = None
    vector: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """banned: ids that are never sampled: placeholders of media, for which there would be no features."""

    temperature: float
    max_new_tokens: int
    banned: tuple[int, ...]


class Rollouts(Protocol):
    """Where rollouts come from."""

    reads_vectors: bool
    """Whether completions come with their embedding; otherwise the policy reads them in a pass of its own."""

    def load(self, step: int, save: SaveWeights) -> None:
        """Sample from the policy's present weights from now on. Free where they are shared, or of `step` already.

        Every rank calls it, and `save` is called on every rank.
        """

    def sample(self, prompts: Sequence[Prompt], group: int, seed: int) -> list[list[Completion]]:
        """`group` completions of each prompt. Raises Transient where a server is gone for longer than its deadline."""

    def close(self) -> None: ...
