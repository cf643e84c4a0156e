"""Rollouts by the real vLLM on the CPU: one server, whose weights change; transformers judges what it samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import orjson
import pytest
import torch

from schemas.recipe import Annotation
from tests.grpo.vllm_policy import logprobs, policy, prompts_of, sampling, saver
from umer1_core.annotation.embedded import embedded_annotator
from umer1_core.backbone.collate import Encoder, collate
from umer1_core.backbone.forward import hidden_states
from umer1_core.backbone.model import Backbone
from umer1_core.backbone.reason import embed_sides
from umer1_core.errors import BadInput, Fatal
from umer1_core.grpo.rollouts.face import Prompt
from umer1_core.grpo.rollouts.server import FromServer
from umer1_core.grpo.rollouts.vllm_chat import CLIPS
from umer1_core.grpo.rollouts.vllm_worker import WORKER
from umer1_core.pairs import Side

pytestmark = pytest.mark.slow

steps = count(1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rollouts") / "weights"


@pytest.fixture(scope="module")
def first(weights: Path) -> Backbone:
    return policy(weights)


@pytest.fixture(scope="module")
def url(weights: Path, first: Backbone) -> Iterator[str]:
    """One server for all tests, with the flags of deploy/rollouts.sh."""
    arguments = ["--dtype", "float32", "--logprobs-mode", "processed_logprobs", "--worker-extension-cls", WORKER]
    arguments += ["--media-io-kwargs", orjson.dumps(CLIPS).decode()]
    embedded = {"backend": "vllm", "max_model_len": 2048, "max_num_seqs": 32, "arguments": arguments}
    annotation = Annotation.model_validate({"model": str(weights), "embedded": embedded})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_SERVER_DEV_MODE", "1")
        with embedded_annotator(annotation, weights.with_name("vllm.log")) as endpoints:
            yield endpoints[0]


@pytest.fixture(scope="module")
def prompts(first: Backbone, weights: Path) -> list[Prompt]:
    return prompts_of(first, weights.parent)


@pytest.fixture
def rollouts_of(url: str, weights: Path) -> Callable[..., FromServer]:
    """Rollouts by the server on a policy's weights."""

    def make(backbone: Backbone, **how: object) -> FromServer:
        rollouts = FromServer(url, sampling(backbone, **how), backbone.ids, weights, patience_s=30)  # type: ignore[arg-type]
        rollouts.load(next(steps), saver(backbone))
        return rollouts

    return make


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_and_prompts_are_those_of_transformers_for_text_pictures_and_clips(
    rollouts_of, first, prompts, temperature
):
    how = sampling(first, temperature)
    groups = rollouts_of(first, temperature=temperature).sample(prompts, 4, seed=3)
    for prompt, group in zip(prompts, groups, strict=True):
        assert len({completion.ids for completion in group}) > 1
        for completion in group:
            theirs = torch.tensor(completion.logprobs)
            torch.testing.assert_close(theirs, logprobs(first, prompt.row, completion, how), atol=2e-3, rtol=0)
    # The bound would see a wrong picture.
    wrong = replace(
        prompts[1].row, pixels=(replace(prompts[1].row.pixels[0], patches=-prompts[1].row.pixels[0].patches),)
    )
    apart = logprobs(first, wrong, groups[1][0], how) - torch.tensor(groups[1][0].logprobs)
    assert apart.abs().max() > 1e-2


def test_equal_seeds_give_equal_rollouts_and_others_differ(rollouts_of, first, prompts):
    rollouts = rollouts_of(first)
    once, again, other = (rollouts.sample(prompts, 3, seed) for seed in (1, 1, 2))
    ids = [[[c.ids for c in group] for group in groups] for groups in (once, again, other)]
    assert ids[0] == ids[1] and ids[0] != ids[2]


def test_a_completion_ends_with_its_turn_alone_or_at_the_limit(rollouts_of, first, prompts):
    ids = first.ids
    groups = rollouts_of(first, tokens=64).sample(prompts, 24, seed=5)
    written = [completion.ids for group in groups for completion in group]
    assert all(ids.end_of_turn not in one[:-1] for one in written)
    assert all(one[-1] == ids.end_of_turn for one in written if len(one) < 64)
    # What others might stop at stands in the middle.
    assert all(any(token in one[:-1] for one in written) for token in (ids.gen, ids.pad))
    assert {len(one) == 64 for one in written} == {True, False}


def test_greedy_text_is_that_of_the_weights_last_loaded(rollouts_of, first, prompts, tmp_path):
    texts = []
    for noise in (1, 2, 1):
        changed = policy(tmp_path / str(len(texts)), noise)
        groups = rollouts_of(changed, temperature=0.0, tokens=10).sample(prompts, 1, seed=0)
        decode, end = changed.processor.tokenizer.decode, changed.ids.end_of_turn
        texts.append([decode([token for token in group[0].ids if token != end]) for group in groups])
        sides = [Side(prompt.text.split("\n<disc_emb>")[0], prompt.media) for prompt in prompts]
        greedy = embed_sides(changed, Encoder(changed, 2_000), sides, max_new_tokens=10)
        assert texts[-1] == [made.text for made in greedy]
    assert texts[0] != texts[1] and texts[0] == texts[2]


def test_placeholders_of_media_are_never_sampled_however_likely(rollouts_of, first, prompts, tmp_path):
    eager, text = policy(tmp_path / "eager"), prompts[0]
    _favour(eager, text, eager.ids.image, 40.0)
    free = rollouts_of(eager, banned=False).sample([text], 4, seed=1)[0]
    assert all(completion.ids[0] == eager.ids.image for completion in free)
    banned = rollouts_of(eager).sample([text], 4, seed=1)[0]
    assert not any({eager.ids.image, eager.ids.video} & set(completion.ids) for completion in banned)
    _favour(eager, text, eager.ids.image, 400.0)
    with pytest.raises(Fatal, match="placeholder"):
        rollouts_of(eager).sample([text], 4, seed=1)


def _favour(backbone: Backbone, prompt: Prompt, token: int, logit: float) -> None:
    """Give `token` this logit behind the prompt."""
    with torch.no_grad():
        batch = collate([prompt.row], backbone.ids, backbone.device)
        state = hidden_states(backbone, batch)[0, -1]
        backbone.model.lm_head.weight[token] = state * logit / state.square().sum()


def test_a_prompt_over_the_servers_context_is_refused_with_its_side(rollouts_of, first, prompts):
    long = Prompt("long", "disc " * 3_000, (), prompts[0].row)
    with pytest.raises(BadInput, match="side long"):
        rollouts_of(first).sample([prompts[0], long], 2, seed=0)
