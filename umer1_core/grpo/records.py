"""What a block's rollouts say of a step: its numbers, and a record for each rollout."""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_core.grpo.similarity import Nearest, nearest
from umer1_core.grpo.trainer import Metrics, Scores
from umer1_core.grpo.watch.rollout_table import Neighbour, RolloutRecord, SideName

_NEIGHBOURS = 3
_SIDES: tuple[SideName, SideName] = ("query", "target")


def neighbours(scores: Scores) -> tuple[Nearest, Nearest]:
    """What the rollouts of queries find among targets, and the other way round."""
    (queries, targets), (asked, found) = scores.block.rollouts.vectors, scores.block.rollouts.valid
    return nearest(queries, targets, asked, found, _NEIGHBOURS), nearest(targets, queries, found, asked, _NEIGHBOURS)


def hits(scores: Scores, near: tuple[Nearest, Nearest]) -> Tensor:
    """bool [2, N, G], True where the nearest group is the pair's own, or one that is equal to it."""
    own = torch.eye(len(scores.block.used), dtype=torch.bool, device=scores.block.used.device)
    right = own if scores.block.rollouts.not_negative is None else own | scores.block.rollouts.not_negative
    found = []
    for side, table in zip(near, (right, right.T), strict=True):
        best = side.groups[..., 0]
        found.append(table.gather(1, best.clamp(min=0)) & (best >= 0))
    return torch.stack(found)


def step_numbers(scores: Scores, near: tuple[Nearest, Nearest], end_of_turn: int) -> Metrics:
    """Means over the rollouts of pairs that were used."""
    used = scores.block.used
    if not bool(used.any()):
        return {"rejected": float(len(used)), "rollouts": 0.0}
    within = scores.rewards[:, used].std(-1)
    group = scores.rewards.shape[-1]
    everything = [ids for ids in scores.block.rollouts.ids if ids]
    means = {name: values[:, used].mean().item() for name, values in scores.components.items()}
    return means | {
        "hit": hits(scores, near)[:, used].float().mean().item(),
        "group_std": within.mean().item(),
        "embedding_std": scores.components["embedding"][:, used].std(-1).mean().item(),
        "zero_std": (within < 1e-8).float().mean().item(),
        "tokens": sum(map(len, everything)) / len(everything),
        "truncated": sum(ids[-1] != end_of_turn for ids in everything) / len(everything),
        "rollouts": float(2 * int(used.sum()) * group),
        "rejected": float(int((~used).sum())),
    }


def rollout_records(scores: Scores, near: tuple[Nearest, Nearest], end_of_turn: int) -> list[RolloutRecord]:
    """Group by group, queries before targets; rejected pairs have none."""
    block, whole = scores.block.rollouts, scores.block
    found = hits(scores, near)
    pairs, group = scores.rewards.shape[1:]
    records = []
    for side, name in enumerate(_SIDES):
        for pair in range(pairs):
            for place in range(group) if bool(whole.used[pair]) else ():
                flat = (side * pairs + pair) * group + place
                at = (side, pair, place)
                records.append(
                    RolloutRecord(
                        pair_id=whole.pair_ids[pair],
                        source=whole.sources[pair],
                        modality=whole.modalities[pair],
                        side=name,
                        side_key=whole.side_keys[pair][side],
                        rollout=place,
                        text=block.texts[flat],
                        problem=block.problems[flat],
                        tokens=len(block.ids[flat]),
                        ended=block.ids[flat][-1] == end_of_turn,
                        format=scores.components["format"][at].item(),
                        ranking=scores.components["ranking"][at].item(),
                        gap=scores.components["gap"][at].item(),
                        embedding_reward=scores.components["embedding"][at].item(),
                        reward=scores.rewards[at].item(),
                        advantage=scores.advantages[at].item(),
                        hit=bool(found[at]),
                        nearest=_named(near[side], pair, place, whole.pair_ids),
                    )
                )
    return records


def _named(near: Nearest, pair: int, place: int, names: list[str]) -> tuple[Neighbour, ...]:
    groups, similar = near.groups[pair, place].tolist(), near.similarity[pair, place].tolist()
    return tuple(Neighbour(names[g], s) for g, s in zip(groups, similar, strict=True) if g >= 0)
