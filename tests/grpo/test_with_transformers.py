"""Rollouts by the policy itself."""

import pytest
import torch

from tests.grpo.by_hand import full_states, log_probs
from tests.grpo.table import fitted_student, pairs_of
from umer1_core.backbone.collate import Encoder
from umer1_core.backbone.model import load_backbone
from umer1_core.grpo.rollouts.face import Prompt, Sampling
from umer1_core.grpo.rollouts.with_transformers import WithTransformers
from umer1_core.grpo.setup import banned_ids
from umer1_core.template import training_prompt

G, TOKENS = 3, 24


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(fitted_student())


@pytest.fixture(scope="module")
def prompts(backbone, tmp_path_factory):
    """Of pictures, clips and text, the longest first."""
    encoder = Encoder(backbone, 2_000)
    sides = [side for pair in pairs_of(tmp_path_factory.mktemp("sampling")) for side in (pair.query, pair.target)]
    found = [
        Prompt(s.key, training_prompt(s.text), s.media, encoder.encode(training_prompt(s.text), s.media)) for s in sides
    ]
    return sorted(found, key=lambda prompt: -len(prompt.row))


def source(backbone, temperature=1.0, rows=256, banned=None):
    banned = banned_ids(backbone) if banned is None else banned
    return WithTransformers(backbone, Sampling(temperature, TOKENS, banned), rows)


def ids_of(made):
    return [[completion.ids for completion in group] for group in made]


def test_equal_seeds_and_weights_give_equal_rollouts_and_others_others(backbone, prompts):
    one, same, other = (source(backbone).sample(prompts, G, seed) for seed in (1, 1, 2))
    assert ids_of(one) == ids_of(same) != ids_of(other)
    assert [len(group) for group in one] == [G] * len(prompts)
    assert len({ids for group in ids_of(one) for ids in group}) > G  # they are sampled, not decoded greedily


def test_completions_stand_with_their_own_prompt_however_many_run_at_a_time(backbone, prompts):
    """At a temperature near 0 there is nothing to draw."""
    alone = [source(backbone, 1e-4).sample([prompt], G, 0)[0] for prompt in prompts]
    for rows in (2 * G, 256):
        assert ids_of(source(backbone, 1e-4, rows).sample(prompts, G, 0)) == ids_of(alone)
    assert len({group[0].ids for group in alone}) > 3


def test_the_embedding_that_comes_along_is_that_of_a_pass_over_the_whole(backbone, prompts):
    for prompt, group in zip(prompts, source(backbone).sample(prompts, G, 3), strict=True):
        for completion in group:
            assert (completion.vector is not None) == (backbone.ids.gen in completion.ids)
            if completion.vector is not None:
                with torch.no_grad():
                    _, vector = log_probs(backbone, prompt.row, completion.ids)
                assert (completion.vector - vector).abs().max() < 1e-5


def test_what_is_sampled_has_the_probabilities_of_the_temperature(backbone, prompts):
    """The first token of many rollouts of one prompt, against the softmax of its logits."""
    backbone = load_backbone(fitted_student())
    with torch.no_grad():
        backbone.model.lm_head.weight.mul_(0.5)  # flat enough that many ids come
    made = WithTransformers(backbone, Sampling(1.5, 1, banned_ids(backbone))).sample(prompts[:1], 4_000, 0)
    found = torch.bincount(torch.tensor([c.ids[0] for c in made[0]]), minlength=backbone.model.lm_head.out_features)
    with torch.no_grad():
        states, _ = full_states(backbone, prompts[0].row, [backbone.ids.gen])
        logits = backbone.model.lm_head(states[-2])
    logits[list(banned_ids(backbone))] = -torch.inf
    expected = (logits / 1.5).softmax(-1)
    assert (found / 4_000 - expected).abs().max() < 0.03 and expected.max() < 0.9


def test_placeholders_of_media_never_come_however_likely_they_are(prompts):
    backbone = load_backbone(fitted_student())
    banned = banned_ids(backbone)
    config = backbone.model.config
    assert set(banned) >= {config.image_token_id, config.video_token_id}
    assert set(banned) >= {config.vision_start_token_id, config.vision_end_token_id}
    head = backbone.model.lm_head.weight
    far = 1e3 * torch.randn(head.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # whatever the state, one of the first two is far ahead of all others
        head[list(banned)] = torch.stack([far, -far, far, -far])
    for kept, chosen in ((banned, source(backbone)), ((), source(backbone, banned=()))):
        made = {token for group in chosen.sample(prompts, G, 0) for c in group for token in c.ids}
        assert made.isdisjoint(banned) if kept else made & {config.image_token_id, config.video_token_id}
