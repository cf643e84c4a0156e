"""One GRPO step by hand, from the equations, against the trainer's."""

import math

import pytest

from tests.grpo.by_hand import by_hand, furthest, gradients, moved
from tests.grpo.table import TINY, make_trainer, pairs_of, rl_store, saved_student
from umer1_core.backbone.model import load_backbone


@pytest.mark.parametrize(
    "change",
    [
        {"anchor": 0.5, "group": 3},
        {"loss_type": "dr_grpo", "epsilon_high": 0.28},
        {"train_sides": "query", "anchor": 0.5},
        {"micro_pairs": 1, "beta": 0.0},
    ],
    ids=["paper, anchored", "released", "queries, anchored", "one pair a pass"],
)
def test_a_step_is_the_equations(tmp_path, change):
    grpo = TINY.model_copy(update={"steps": 1, "max_norm": 1e9, "min_group_std": 0.02, **change})
    pairs = pairs_of(tmp_path)
    store = rl_store(tmp_path, pairs)
    trainer, kept = make_trainer(tmp_path, store, grpo)
    moved(trainer.parts.backbone)
    policy = moved(load_backbone(str(saved_student(tmp_path))))
    reference = load_backbone(str(saved_student(tmp_path)))
    rows = trainer.parts.order.rows(0).tolist()
    step = by_hand(policy, reference, [pairs[row] for row in rows], grpo)
    step.loss.backward()
    assert float(step.rewards.std(-1).max()) > 1e-3  # or nothing would be learned and nothing shown

    trainer.train()

    expected = gradients(policy)
    assert kept.records[0]["reward"] == pytest.approx(step.rewards.mean().item(), abs=1e-6)
    assert furthest(kept.gradients[0], expected) <= (1e-5 if grpo.anchor else 1e-6)
    assert kept.records[0]["grad_norm"] == pytest.approx(
        math.sqrt(sum(float(g.square().sum()) for g in expected.values())), rel=1e-4
    )
