"""Log-probs, entropies and embeddings of whole groups by one forward pass of the policy or the reference.

Guarantees: prompt and media go through the model once for a group; everything runs inside one call of the model as TRL
has wrapped it, so processes may share it in any way; a pass without groups, or without media where `blanks` are given,
still runs the same layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from umer1_core.backbone.model import Backbone
from umer1_core.backbone.pixels import Pixels
from umer1_core.backbone.positions import read_embeddings
from umer1_core.backbone.shared_prefix import Group, collate_groups, model_inputs
from umer1_core.training.packs import plan_packs


@dataclass(frozen=True, slots=True)
class Scored:
    """Rollouts in the order of their groups. log_probs, entropies: [rollouts, longest], zero behind a rollout's end;
    vectors: [rollouts, width], of unit length, zero where a rollout has no `<gen_emb>`; entropies, vectors: None where
    they were not asked for. anything: a scalar, zero, that depends on all that ran."""

    log_probs: Tensor
    entropies: Tensor | None
    vectors: Tensor | None
    anything: Tensor
    processed: int


def score_groups(
    model: Any,
    backbone: Backbone,
    groups: Sequence[Group],
    entropies: bool = False,
    vectors: bool = False,
    blanks: Sequence[Pixels] = (),
) -> Scored:
    """One forward pass. model: what TRL calls, the policy as it is wrapped or the reference; backbone: the policy's."""
    batch = collate_groups(groups, backbone.ids, backbone.device, blanks=blanks)
    with backbone.computing(), _final_states(backbone, vectors) as seen:
        output = model(**model_inputs(backbone, batch), shift_labels=batch.shift_labels, fused_lm_head=True)
    read = None
    if vectors:
        read = read_embeddings(seen[0], batch.ids, backbone.ids.gen, batch.written).vectors
    return Scored(
        _by_rollout(output.log_probs, batch.predicting),
        _by_rollout(output.entropy, batch.predicting) if entropies else None,
        read,
        0 * output.log_probs.sum(),
        batch.processed,
    )


@torch.no_grad()
def score_in_packs(
    model: Any,
    backbone: Backbone,
    groups: Sequence[Group],
    budget: int,
    vectors: bool,
    blanks: Sequence[Pixels] = (),
    passes: Callable[[int], int] = int,
) -> Scored:
    """The same without gradient, a few groups at a time, at most `budget` tokens where a group is not larger itself.

    passes: of how many forward passes are needed here, how many are made: ranks that share the weights must make
    equally many.
    """
    plan = plan_packs([group.tokens() for group in groups], budget)
    plan += [[] for _ in range(passes(len(plan)) - len(plan))]
    parts = [score_groups(model, backbone, [groups[i] for i in pack], False, vectors, blanks) for pack in plan]
    places = [place for pack in plan for place in _places(groups, pack)]
    order = torch.tensor(places, dtype=torch.long).argsort()
    rows = [row for part in parts for row in part.log_probs]
    log_probs = pad_sequence(rows, batch_first=True)[order] if rows else torch.zeros(0, 0)
    read = [part.vectors for part in parts if part.vectors is not None]
    return Scored(
        log_probs,
        None,
        torch.cat(read)[order] if vectors and read else None,
        torch.zeros((), device=backbone.device),
        sum(part.processed for part in parts),
    )


def _places(groups: Sequence[Group], pack: Sequence[int]) -> list[int]:
    """Where the rollouts of a pack's groups stand among all rollouts."""
    firsts = [0]
    for group in groups:
        firsts.append(firsts[-1] + len(group.completions))
    return [place for index in pack for place in range(firsts[index], firsts[index + 1])]


def _by_rollout(line: Tensor, spans: Tensor) -> Tensor:
    """[1, length] → [rollouts, longest], zero behind the end of a rollout."""
    flat = line.flatten()
    parts = [flat[start:end] for start, end in spans.tolist()]
    return pad_sequence(parts, batch_first=True) if parts else flat.new_zeros(0, 0)


@contextlib.contextmanager
def _final_states(backbone: Backbone, wanted: bool) -> Iterator[list[Tensor]]:
    """The states after the final norm of the forward pass inside: [1, length, width]."""
    seen: list[Tensor] = []
    if not wanted:
        yield seen
        return

    def keep(_module: Any, _given: Any, output: Any) -> None:
        seen.append(output.last_hidden_state)

    handle = backbone.model.model.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
