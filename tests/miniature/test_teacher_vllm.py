"""vLLM reads the shipped teacher as transformers does: token by token, at the real prompt, for every kind of input.

The negative control takes `attention_bias` out of the config, the key that vLLM asks and transformers does not.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Glm4vForConditionalGeneration
from transformers.video_utils import VideoMetadata

from umer1_core.media import open_image
from umer1_core.miniature.accuracy import GREEDY, TEACHER, Case, complete, draw_cases, serve
from umer1_core.miniature.samples import KINDS
from umer1_core.miniature.world import Clip

pytestmark = pytest.mark.slow

FLAGS = ("--dtype", "float32")
REQUEST: dict[str, Any] = {**GREEDY, "prompt_logprobs": 0, "return_token_ids": True, "logprobs": True}


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """Two sides of each kind."""
    drawn = draw_cases("heldout", 150, seed=9)
    return [case for kind in KINDS for case in [c for c in drawn if c.side.kind == kind][:2]]


def _answers(folder: Path, cases: list[Case], log: Path) -> list[dict[str, Any]]:
    with serve(folder, log, FLAGS) as endpoint:
        return asyncio.run(complete(endpoint, str(folder), [case.messages() for case in cases], REQUEST))


@pytest.fixture(scope="module")
def answers(cases: list[Case], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return _answers(TEACHER, cases, tmp_path_factory.mktemp("log") / "vllm.log")


def _inputs(case: Case) -> dict[str, torch.Tensor]:
    """What transformers' own processor makes of the request."""
    processor = AutoProcessor.from_pretrained(TEACHER)
    media: dict[str, Any] = {}
    frames: list[Image.Image] = [open_image(data) for data in case.media]
    if isinstance(case.side.picture, Clip):
        metadata = VideoMetadata(total_num_frames=len(frames), fps=1.0, frames_indices=list(range(len(frames))))
        media = {"videos": [frames], "video_metadata": [metadata], "do_sample_frames": False}
    elif frames:
        media = {"images": frames}
    messages = [
        {
            "role": "user",
            "content": [{**part, "type": part["type"].removesuffix("_url")} for part in message["content"]],
        }
        for message in case.messages()
    ]
    text = processor.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return dict(processor(text=[text], return_tensors="pt", **media))


def _logprobs(case: Case, answer: dict[str, Any]) -> tuple[list[int], torch.Tensor]:
    """Tokens of prompt and vLLM's reply, and transformers' log probability of each but the first."""
    model = Glm4vForConditionalGeneration.from_pretrained(TEACHER, dtype=torch.float32)
    inputs = _inputs(case)
    reply = torch.tensor([answer["choices"][0]["token_ids"]])
    tokens = torch.cat([inputs["input_ids"], reply], dim=1)
    extra = {"attention_mask": torch.ones_like(tokens)}
    extra["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(reply)], dim=1)
    with torch.no_grad():
        logits = model(**{**inputs, "input_ids": tokens, **extra}).logits
    chosen = logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
    return tokens[0].tolist(), chosen


def _largest_difference(case: Case, answer: dict[str, Any]) -> float:
    """Between vLLM's and transformers' log probabilities, over the prompt and the reply."""
    tokens, ours = _logprobs(case, answer)
    prompt = answer["prompt_token_ids"]
    assert tokens[: len(prompt)] == prompt
    theirs = [
        entry[str(token)]["logprob"] for token, entry in zip(prompt[1:], answer["prompt_logprobs"][1:], strict=True)
    ]
    theirs += [entry["logprob"] for entry in answer["choices"][0]["logprobs"]["content"]]
    return float((ours - torch.tensor(theirs)).abs().max())


@pytest.mark.parametrize("index", range(2 * len(KINDS)), ids=[f"{kind} {n}" for kind in KINDS for n in (1, 2)])
def test_vllm_and_transformers_agree_token_by_token(
    cases: list[Case], answers: list[dict[str, Any]], index: int
) -> None:
    assert _largest_difference(cases[index], answers[index]) < 5e-3


def test_without_attention_bias_in_the_config_they_do_not(cases: list[Case], tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(TEACHER, folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["text_config"].pop("attention_bias") is True
    (folder / "config.json").write_text(json.dumps(config))
    answers = _answers(folder, cases[::2], tmp_path / "vllm.log")
    assert max(_largest_difference(c, a) for c, a in zip(cases[::2], answers, strict=True)) > 0.1
