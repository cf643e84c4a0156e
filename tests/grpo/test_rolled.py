"""A process's rollouts as TRL and a forward pass take them."""

import math

import pytest
import torch

from tests.grpo.table import TINY, Given, make_trainer, pairs_of, rl_store
from tests.student import small_student
from umer1_core.backbone.collate import Encoder
from umer1_core.errors import BadInput
from umer1_core.grpo.pairs import QUERY, RLPairs
from umer1_core.grpo.rolled import BOTH, roll, vectors_of, without_placeholders
from umer1_core.grpo.rollouts.face import Completion
from umer1_core.grpo.scoring import score_groups
from umer1_core.grpo.sides import SideReader
from umer1_core.training.data.pair_table import Rejection

G = 2


@pytest.fixture(scope="module")
def rolled(tmp_path_factory):
    """Three pairs of which the second was rejected."""
    folder, backbone = tmp_path_factory.mktemp("rolled"), small_student()
    pairs = pairs_of(folder)[1:4]
    reader = SideReader(RLPairs(rl_store(folder, pairs)), Encoder(backbone, 2_000))
    read = reader.read(range(3))
    reader.close()
    read[1] = Rejection(pairs[1].pair_id, pairs[1].source, "empty_side", "target: nothing")
    asked = [prompt for pair in read if not isinstance(pair, Rejection) for prompt in pair.prompts]
    made = Given(backbone, lambda _, ids: (-1.0,) * len(ids)).sample(asked, G, 0)
    return roll(read, made, G, backbone, torch.device("cpu"))


# -- rows and groups -------------------------------------------------------------------------------------------------


def test_the_groups_of_a_part_are_those_of_its_rows_without_rejected_pairs(rolled):
    assert rolled.used == [True, False, True] and rolled.rows == 12
    places, groups = rolled.groups(range(4, 12), BOTH)  # the second pair and the third
    assert places == [4, 5, 6, 7]
    assert [group.completions for group in groups] == [rolled.of_side(2, side).completions for side in BOTH]
    places, groups = rolled.groups(range(12), {QUERY})
    assert places == [0, 1, 8, 9] and [g.prompt.prompt for g in groups] == [
        rolled.of_side(pair, QUERY).prompt.prompt for pair in (0, 2)
    ]
    assert rolled.groups([], BOTH) == ([], []) == rolled.groups(range(4, 8), BOTH)


def test_what_is_trained_on_are_the_rows_of_its_groups(rolled):
    for sides in (BOTH, (QUERY,)):
        places, _ = rolled.groups(range(12), sides)
        assert rolled.trained(sides).nonzero()[:, 0].tolist() == places


def test_trl_gets_a_row_for_each_rollout_and_two_tokens_for_those_of_a_rejected_pair(rolled):
    ids = small_student().ids
    prompts, completions = rolled.token_ids(ids)
    assert len(prompts) == len(completions) == 12
    assert prompts[4:8] == [[ids.pad]] * 4 and completions[4:8] == [[ids.end_of_turn] * 2] * 4
    places, groups = rolled.groups(range(12), BOTH)
    assert [tuple(completions[place]) for place in places] == [ids for group in groups for ids in group.completions]
    assert [tuple(prompts[place]) for place in places[::G]] == [group.prompt.prompt for group in groups]


def test_the_ratio_is_of_told_log_probs_at_most_two_and_one_elsewhere(rolled):
    places, groups = rolled.groups(range(12), BOTH)
    longest = max(len(ids) for group in groups for ids in group.completions)
    own = torch.full((len(places), longest), -1.0)
    own[0, :2] = torch.tensor([-1.5, 3.0])
    ratio, gap = rolled.token_ratio(places, own)
    expected = torch.ones(12, longest)
    expected[0, :2] = torch.tensor([math.exp(-0.5), 2.0])
    assert torch.allclose(ratio, expected)
    assert gap == pytest.approx(4.5 / len(groups[0].completions[0]) / len(places))


def test_a_completion_without_a_vector_has_zeros():
    vector = torch.tensor([1.0, 2.0, 3.0])
    made = [[[Completion((1,)), Completion((2,), vector=vector)], [Completion((1,))] * 2], [[], []]]
    found = vectors_of(made, 3, 2)
    assert found.shape == (2, 2, 2, 3) and torch.equal(found[0, 0, 1], vector) and found.sum() == 6


# -- placeholders that a sampler let through -------------------------------------------------------------------------


def test_a_rollout_ends_before_a_placeholder_of_a_medium():
    ids = small_student().ids
    said, vector = (101, 102), torch.ones(3)
    whole = Completion((*said, ids.gen, ids.end_of_turn), (-1.0, -2.0, -3.0, -4.0), vector)
    assert without_placeholders(whole, ids) == (whole, "")
    for token in (ids.image, ids.video):
        cut = Completion((*said, token, 103, ids.image), (-1.0, -2.0, -3.0, -4.0, -5.0), vector)
        assert without_placeholders(cut, ids) == (Completion(said, (-1.0, -2.0)), "placeholder")
        assert without_placeholders(Completion((*said, token)), ids) == (Completion(said), "placeholder")
        nothing = Completion((token, ids.end_of_turn), (-1.0, -2.0))
        assert without_placeholders(nothing, ids) == (Completion((ids.end_of_turn,)), "placeholder")


class Broken(Given):
    """Two rollouts of each side hold a placeholder; `cut`: as they are without it and what follows."""

    cut = False

    def sample(self, prompts, group, seed):
        ids, made = self.backbone.ids, super().sample(prompts, group, seed)
        for side in made:
            first, second = side[0].ids, side[1].ids
            side[0] = Completion(first[:6] if self.cut else (*first[:6], ids.image, *first[6:]))
            side[1] = Completion((ids.end_of_turn,) if self.cut else (ids.video, *second))
        return made


class Cut(Broken):
    cut = True


def test_a_placeholder_ends_no_training_and_the_rest_of_its_group_trains(tmp_path):
    grpo = TINY.model_copy(update={"steps": 1, "group": 4, "anchor": 0.5, "min_group_std": 0.02})
    store, backbone = rl_store(tmp_path, pairs_of(tmp_path)), small_student()
    trainer, kept = make_trainer(tmp_path, store, grpo, Broken)
    trainer.train()
    again, kept_again = make_trainer(tmp_path / "again", store, grpo, Cut)
    again.train()

    block = kept.scores[0].block.rollouts
    assert block.problems[::4] == block.problems[1::4] == ["placeholder"] * 8
    assert not block.valid[:, :, :2].any() and block.valid[:, :, 2:].all()
    assert not any({backbone.ids.image, backbone.ids.video} & set(ids) for ids in block.ids)
    found, expected = kept.gradients[0], kept_again.gradients[0]
    assert found.keys() == expected.keys() and any(g.abs().max() > 0 for g in found.values())
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert "placeholder" not in kept_again.scores[0].block.rollouts.problems


def test_a_forward_pass_would_refuse_one(rolled):
    backbone = small_student()
    _, (group, *_) = rolled.groups(range(12), BOTH)
    holding = type(group)(group.prompt, ((101, backbone.ids.image),))
    with pytest.raises(BadInput, match="placeholder"):
        score_groups(backbone.model, backbone, [holding])
