"""What the trainer asks for, sees and learns from, with rollouts that are given."""

import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from tests.grpo.by_hand import by_hand, furthest, gradients, log_probs, moved
from tests.grpo.table import (
    TINY,
    Given,
    fitted_student,
    make_trainer,
    pairs_of,
    poisons,
    rl_store,
    sampler,
    saved_student,
)
from tests.student import clip
from umer1_core.backbone.model import load_backbone
from umer1_core.errors import Fatal
from umer1_core.grpo.anchor import anchor_gradient
from umer1_core.grpo.rollouts.face import Completion
from umer1_core.grpo.rollouts.with_transformers import WithTransformers
from umer1_core.grpo.setup import trainer_arguments
from umer1_core.pairs import Pair, Side, pair_id
from umer1_core.training.losses import contrastive

ONE = TINY.model_copy(update={"steps": 1, "max_norm": 1e9, "min_group_std": 0.02, "max_prompt_tokens": 2_000})


def changed(**values):
    return ONE.model_copy(update=values)


def patches_seen(visual, seen):
    """Adds to `seen` how many patches go through a tower, with and without gradient."""

    def note(_module, given, named):
        patches = given[0] if given else named["hidden_states"]
        seen.append((torch.is_grad_enabled(), len(patches)))

    visual.register_forward_pre_hook(note, with_kwargs=True)


# -- once, and not G times -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["given", "sampled"])
def test_every_side_is_asked_for_once_a_block_and_each_picture_seen_once_a_pass(tmp_path, source):
    grpo = changed(steps=2, updates_per_block=2, group=4)
    given = source == "given"
    trainer, kept = make_trainer(
        tmp_path, rl_store(tmp_path, pairs_of(tmp_path)), grpo, Given if given else sampler(grpo)
    )
    policy, reference = [], []
    patches_seen(trainer.parts.backbone.model.model.visual, policy)
    patches_seen(trainer.ref_model.model.visual, reference)
    pairs = trainer.parts.sides.read(trainer.parts.order.rows(0))
    shown = sum(len(p.patches) for pair in pairs for prompt in pair.prompts for p in prompt.row.pixels)

    trainer.train()

    assert shown > 0 and len(kept.records) == 2 and len(kept.scores) == 1
    # Without gradient: rollouts that are sampled, or the embeddings of those that are given.
    assert sum(count for grad, count in policy if not grad) == shown + old_log_probs(grpo, shown)
    assert sum(count for grad, count in policy if grad) == shown * grpo.updates_per_block
    assert sum(count for _, count in reference) == shown
    if given:
        keys = [prompt.key for pair in pairs for prompt in pair.prompts]
        assert trainer.parts.rollouts.asked == keys and trainer.parts.rollouts.loaded == [0]


def old_log_probs(grpo, shown):
    """TRL scores once more where it updates more than once, to hold the policy against the one that wrote."""
    return shown if grpo.updates_per_block > 1 else 0


# -- clips -----------------------------------------------------------------------------------------------------------


def clips(folder):
    """Two pairs that differ in nothing but the direction of their clip."""
    return [
        Pair(
            pair_id("test/rl", str(back)), "test/rl", "video",
            Side("What moves here?", (clip(folder, "green", reverse=back),)), Side("A green disc."),
        )
        for back in (False, True)
    ]  # fmt: skip


def test_log_probs_reference_and_embeddings_see_the_clip(tmp_path):
    pairs = clips(tmp_path)
    trainer, kept = make_trainer(tmp_path, rl_store(tmp_path, pairs), changed(block_pairs=2))
    moved(trainer.parts.backbone)
    rows = trainer.parts.order.indices(0)
    trainer.model.train()
    made = trainer._generate_and_score_completions([{"prompt": str(index)} for index in rows])
    with torch.no_grad():
        ids = torch.cat([made["prompt_ids"], made["completion_ids"]], dim=1)
        own, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, torch.ones_like(ids), made["completion_ids"].shape[1]
        )
    vectors = kept.scores[0].block.rollouts.vectors.transpose(0, 1).flatten(0, 2)
    for values in (own, made["ref_per_token_logps"], vectors):
        first, second = values.view(2, 2, TINY.group, -1)  # [sides, G, ...] of either pair
        assert (first[0] - second[0]).abs().max() > 1e-3  # queries: the clip the other way round
        assert (first[1] - second[1]).abs().max() < 1e-5  # targets: the same text
    assert torch.equal(*made["completion_ids"].view(2, 2, TINY.group, -1)[:, 0])  # nothing else was different
    trainer.parts.sides.close()


def test_a_block_of_clips_alone_trains_the_tower(tmp_path):
    pairs = [replace(pair, target=Side(f"A disc, {i}.")) for i, pair in enumerate(clips(tmp_path))]
    trainer, kept = make_trainer(tmp_path, rl_store(tmp_path, pairs), changed(block_pairs=2, group=4, steps=2))
    before = {name: p.clone() for name, p in trainer.model.named_parameters() if "visual" in name}
    trainer.train()
    assert all(math.isfinite(record["loss"]) for record in kept.records)
    tower = {name: g for name, g in kept.gradients[0].items() if "visual.blocks" in name or "patch_embed" in name}
    assert tower and all(g.abs().max() > 0 for name, g in tower.items() if not name.endswith("qkv.bias"))
    assert all((p - before[name]).abs().max() > 0 for name, p in trainer.model.named_parameters() if name in tower)


# -- rows that cannot be used ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{}, {"loss_type": "dapo", "anchor": 0.2, "micro_pairs": 1}], ids=["paper", "dapo"])
def test_the_rest_of_a_block_trains_as_if_rejected_pairs_were_not_there(tmp_path, change):
    grpo, pairs = changed(block_pairs=6, **({"micro_pairs": 3} | change)), pairs_of(tmp_path)
    found = poisons(tmp_path)
    bad = {0: found["media_missing"], 3: found["empty_side"]}
    trainer, kept = make_trainer(tmp_path, rl_store(tmp_path, pairs, bad), grpo)
    moved(trainer.parts.backbone)
    policy = moved(load_backbone(str(saved_student(tmp_path))))
    rows = [row for row in trainer.parts.order.rows(0).tolist() if row not in bad]
    step = by_hand(policy, load_backbone(str(saved_student(tmp_path))), [pairs[row] for row in rows], grpo)
    step.loss.backward()

    trainer.train()

    assert {r.pair_id: r.reason for r in kept.rejected} == {
        pairs[0].pair_id: "media_missing", pairs[3].pair_id: "empty_side",
    }  # fmt: skip
    assert furthest(kept.gradients[0], gradients(policy)) <= (1e-5 if grpo.anchor else 1e-6)
    record = kept.records[0]
    assert record["rejected"] == 2 and record["rollouts"] == 2 * 4 * grpo.group
    assert record["reward"] == pytest.approx(step.rewards.mean().item(), abs=1e-6)
    assert record["loss"] == pytest.approx(step.loss.item(), abs=1e-5) or grpo.anchor


# -- rollouts of another sampler -------------------------------------------------------------------------------------


class Replayed:
    """Completions of the policy itself, as a server would send them: without their embeddings."""

    reads_vectors = False

    def __init__(self, made):
        self.made = made

    def load(self, step, save):
        pass

    def sample(self, prompts, group, seed):
        return [[Completion(c.ids) for c in completions] for completions in self.made]

    def close(self):
        pass


def test_embeddings_that_a_server_does_not_send_are_read_as_the_policy_would_have(tmp_path):
    grpo = changed(group=4, max_new_tokens=24)
    store = rl_store(tmp_path, pairs_of(tmp_path))
    trainer, kept = make_trainer(tmp_path, store, grpo, sampler(grpo), base=fitted_student())
    made = []

    class Noted(WithTransformers):
        def sample(self, prompts, group, seed):
            made.extend(super().sample(prompts, group, seed))
            return made

    noted = Noted(trainer.parts.backbone, trainer.parts.rollouts._sampling)
    trainer.parts = replace(trainer.parts, rollouts=noted)
    trainer.train()
    again, kept_again = make_trainer(tmp_path, store, grpo, lambda _: Replayed(made), base=fitted_student())
    again.train()

    one, other = (k.scores[0].block.rollouts for k in (kept, kept_again))
    read = one.vectors.norm(dim=-1) > 0
    assert read.float().mean() > 0.4 and not read.all()  # or one of them would say nothing
    assert (one.vectors - other.vectors).abs().max() < 1e-5
    assert torch.equal(one.valid, other.valid) and one.valid.any()
    assert torch.allclose(kept.scores[0].advantages, kept_again.scores[0].advantages, atol=1e-3)
    assert "sampler_gap" not in kept_again.records[0]


RATIOS = (0.5, 1.0, 1.5, 2.0, 3.0, 20.0)  # policy over sampler, of a rollout's first tokens


def test_what_another_kernel_sampled_weighs_by_its_ratio_truncated_at_two(tmp_path):
    grpo, pairs = changed(), pairs_of(tmp_path)
    store = rl_store(tmp_path, pairs)
    policy = moved(load_backbone(str(saved_student(tmp_path))))

    def told(prompt, ids):
        with torch.no_grad():
            own, _ = log_probs(policy, prompt.row, ids)
        own[: len(RATIOS)] -= torch.tensor(RATIOS).log()
        return tuple(own.tolist())

    trainer, kept = make_trainer(tmp_path, store, grpo, lambda backbone: Given(backbone, told))
    moved(trainer.parts.backbone)
    reference = load_backbone(str(saved_student(tmp_path)))
    rows = trainer.parts.order.rows(0).tolist()
    step = by_hand(policy, reference, [pairs[row] for row in rows], grpo, [min(r, 2.0) for r in RATIOS])
    step.loss.backward()

    trainer.train()

    assert furthest(kept.gradients[0], gradients(policy)) <= 2e-6
    lengths = [len(ids) for ids in kept.scores[0].block.rollouts.ids]
    gap = sum(abs(math.log(r)) for r in RATIOS)
    assert kept.records[0]["sampler_gap"] == pytest.approx(sum(gap / n for n in lengths) / len(lengths), abs=1e-4)
    without = by_hand(policy, reference, [pairs[row] for row in rows], grpo)
    assert abs(without.loss.item() - step.loss.item()) > 1e-3  # the ratios matter


# -- the anchor ------------------------------------------------------------------------------------------------------


def test_the_anchor_counts_a_pair_in_the_rounds_where_both_sides_are_valid(tmp_path):
    trainer, kept = make_trainer(tmp_path, rl_store(tmp_path, pairs_of(tmp_path)), changed(group=3))
    trainer.train()
    block = kept.scores[0].block.rollouts
    valid = torch.ones_like(block.valid)
    valid[0, 1, 0] = valid[1, 2, 0] = False
    valid[0, :3, 1] = False  # a round of one pair says nothing
    loss, gradient = anchor_gradient(replace(block, valid=valid), 0.1)
    queries, targets = (side.clone().requires_grad_() for side in block.vectors)
    equal = torch.zeros(4, 4, dtype=torch.bool)
    expected = (
        contrastive(queries[[0, 3], 0], targets[[0, 3], 0], 0.1, equal[:2, :2])
        + contrastive(queries[:, 2], targets[:, 2], 0.1, equal)
    ) / 3
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert (gradient - torch.stack([queries.grad, targets.grad])).abs().max() < 1e-6
    assert not gradient[:, 1, 0].any() and not gradient[:, :, 1].any()


# -- how it was launched ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sparing", "beta", "refused"), [("true", 0.04, True), ("false", 0.04, False), ("true", 0.0, False)]
)
def test_a_launch_that_leaves_the_reference_empty_is_refused(tmp_path, monkeypatch, sparing, beta, refused):
    """With it, transformers loads weights in the first process alone, and only the policy's are sent to the others."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", sparing)
    with pytest.raises(Fatal, match="reference would be empty") if refused else nullcontext():
        trainer_arguments(changed(beta=beta), tmp_path, 1)
