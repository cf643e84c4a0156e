"""The rollouts of one step, of all processes together, as the rewards take them.

Guarantees: rollouts of all processes stand in the order of pairs; a rejected pair keeps its place, with empty rollouts
that are valid nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from umer1_core.grpo.rewards import RolloutBlock
from umer1_core.grpo.rolled import Rolled
from umer1_core.pairs import Side
from umer1_core.training.data.pair_table import Rejection
from umer1_core.training.losses import content_keys, equal_entries
from umer1_core.training.ranks import Ranks

_NOBODY = Side("")


@dataclass(frozen=True, slots=True)
class WholeBlock:
    """The rollouts of all processes. used: bool [pairs]; pair_ids, sources, modalities: [pairs]; not_negative: as in
    `embedding_reward`, with the diagonal False."""

    rollouts: RolloutBlock
    used: Tensor
    pair_ids: list[str]
    sources: list[str]
    modalities: list[str]
    side_keys: list[tuple[str, str]]


def gather_block(rolled: Rolled, ranks: Ranks, mask_equal: bool) -> WholeBlock:
    """Every rank calls it and gets the same."""
    own = [_describe(rolled, index) for index in range(len(rolled.pairs))]
    described = ranks.gather_objects(own)
    vectors = ranks.gather(rolled.vectors.contiguous()).transpose(0, 1)  # [2, N, G, width]
    shape = vectors.shape[:3]
    flat = [item for side in (0, 1) for entry in described for item in entry.rollouts[side]]
    problems = [problem for _, _, problem in flat]
    used = torch.tensor([entry.used for entry in described], device=vectors.device)
    valid = torch.tensor([not problem for problem in problems], device=vectors.device).view(shape)
    keys = content_keys([entry.keys[0] for entry in described], [entry.keys[1] for entry in described])
    equal = equal_entries(keys[:, 0], keys[:, 1]).to(vectors.device) if mask_equal else None
    rollouts = RolloutBlock(
        vectors=vectors,
        valid=valid & used.view(1, -1, 1),
        not_negative=equal,
        sides=[entry.sides[side] for side in (0, 1) for entry in described],
        ids=[ids for ids, _, _ in flat],
        texts=[text for _, text, _ in flat],
        problems=problems,
    )
    return WholeBlock(
        rollouts,
        used,
        [entry.names[0] for entry in described],
        [entry.names[1] for entry in described],
        [entry.names[2] for entry in described],
        [entry.keys for entry in described],
    )


@dataclass(frozen=True, slots=True)
class _Described:
    """A pair's part that other processes need. rollouts: [2][G] of (ids, text, problem)."""

    names: tuple[str, str, str]
    keys: tuple[str, str]
    sides: tuple[Side, Side]
    rollouts: tuple[list[tuple[tuple[int, ...], str, str]], ...]
    used: bool


def _describe(rolled: Rolled, index: int) -> _Described:
    pair = rolled.pairs[index]
    if isinstance(pair, Rejection):
        nothing: list[tuple[tuple[int, ...], str, str]] = [((), "", pair.reason)] * rolled.group
        # A key of its own: the place is equal to no other, and nothing of it is valid.
        names = (pair.pair_id, pair.source, "")
        return _Described(names, (f"query {pair.pair_id}", pair.pair_id), (_NOBODY, _NOBODY), (nothing, nothing), False)
    rollouts = tuple(
        [
            (completion.ids, text, problem)
            for completion, text, problem in zip(
                rolled.completions[index][side], rolled.texts[index][side], rolled.problems[index][side], strict=True
            )
        ]
        for side in (0, 1)
    )
    names = (pair.pair_id, pair.source, pair.modality)
    return _Described(names, (pair.query_key, pair.target_key), pair.sides, rollouts, True)
