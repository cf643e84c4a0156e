"""One rank of GRPO steps with given rollouts, started by `accelerate launch` with a config of deploy/accelerate; rank 0
writes the findings.

accelerate launch --config_file … --num_processes 2 -m tests.grpo.distributed.step_worker ROOT OUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from tests.grpo.by_hand import moved
from tests.grpo.table import TINY, make_trainer, pairs_of, poisons, rl_store, saved_student
from umer1_core.grpo.pairs import RLPairs, make_order
from umer1_core.store import Store
from umer1_core.training.ranks import join_ranks, leave_ranks

BASE = TINY.model_copy(
    update={"steps": 1, "micro_pairs": 1, "max_norm": 1e9, "min_group_std": 0.02, "max_prompt_tokens": 2_000}
)
# By scenario: changes of the settings, and which places of the block hold pairs of no use; rank 0 has the first half.
SCENARIOS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "uneven media": ({}, ()),
    "anchor, a pair rejected": ({"anchor": 0.5, "group": 3}, (1,)),
    "queries, a rank without pairs": ({"train_sides": "query", "anchor": 0.5}, (2, 3)),
    "all tokens alike, a pair rejected": ({"loss_type": "dapo", "beta": 0.0}, (0,)),
    "two updates, released": ({"steps": 2, "updates_per_block": 2, "loss_type": "dr_grpo"}, (2,)),
    "nothing": ({}, (0, 1, 2, 3)),
}
_TEXT = {2, 3}  # rows without media, of `pairs_of`
# A gradient that is zero but for rounding is not scaled to a full step.
_EPSILON = 1e-3


def prepare(root: Path) -> None:
    """The base checkpoint, and a store for each scenario."""
    saved_student(root)
    pairs = pairs_of(root)
    for name, (_, places) in SCENARIOS.items():
        rows = order_of(RLPairs(rl_store(root / "any", pairs))).rows(0).tolist() if places else []
        rl_store(root / name, pairs, {rows[place]: poisons(root)["media_missing"] for place in places})


def order_of(pairs: RLPairs) -> Any:
    return make_order(pairs, BASE.block_pairs, BASE.group, 1, seed_of(pairs))


def seed_of(pairs: RLPairs) -> int:
    """One by which the second half of the first block is of text alone."""
    for seed in range(1_000):
        rows = make_order(pairs, BASE.block_pairs, BASE.group, 1, seed).rows(0).tolist()
        if set(rows[2:]) == _TEXT:
            return seed
    raise AssertionError("no order has the pairs of text alone at its end")


def trained(root: Path, name: str) -> dict[str, Any]:
    """Gradients, weights, numbers and rewards of a scenario's steps."""
    changes, _ = SCENARIOS[name]
    store = Store(str(root / name / "data"))
    grpo = BASE.model_copy(update={**changes, "seed": seed_of(RLPairs(store))})
    folder = root / name / f"run-{join_ranks().world}"
    trainer, kept = make_trainer(folder, store, grpo, base=str(saved_student(root)))
    moved(trainer.parts.backbone)
    trainer.args.adam_epsilon = _EPSILON
    trainer.train()
    state = trainer.accelerator.get_state_dict(trainer.model)
    numbers = ("loss", "grad_norm", "reward", "kl", "entropy", "format", "hit", "rejected", "rollouts", "anchor")
    return {
        "gradients": kept.gradients,
        "state": {name: tensor.clone() for name, tensor in state.items()},
        "records": [{name: r[name] for name in numbers if r.get(name) is not None} for r in kept.records],
        "rewards": kept.scores[0].rewards,
        "advantages": kept.scores[0].advantages,
        "vectors": kept.scores[0].block.rollouts.vectors,
        "rejected": sorted(rejection.pair_id for rejection in kept.rejected),
    }


def main(root: Path, out: Path) -> None:
    findings = {name: trained(root, name) for name in SCENARIOS}
    if join_ranks().main:
        torch.save(findings, out)
    leave_ranks()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
