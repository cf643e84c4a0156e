"""What every way to vLLM shares: a prompt as a chat message, how it samples, and its output as completions.

Guarantees: ids are those that were sampled, never text tokenised again; a prompt is the row that the trainer scores, id
for id, with media that lose nothing on the way; a banned id never comes through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from umer1_core.backbone.model import TokenIds
from umer1_core.errors import Fatal
from umer1_core.grpo.rollouts.face import Completion, Prompt, Sampling
from umer1_core.media import data_url
from umer1_core.pairs import draw_priority

# vLLM cuts a bias off here: e^-100 of what the most likely token has.
_LEAST_BIAS = -100.0

CLIPS: dict[str, Any] = {"video": {"num_frames": -1, "fps": 2}}
"""vLLM's `media_io_kwargs`: every frame that is sent, at the rate that the families' processors take unnamed frames to
have. Times of Qwen3-VL and positions of Qwen2.5-VL depend on it."""


def chat_messages(prompt: Prompt) -> list[dict[str, Any]]:
    """The one user turn, media first. Raises BadInput for media that cannot be read."""
    parts: list[dict[str, Any]] = []
    for item in prompt.media:
        kind = f"{item.kind}_url"
        parts.append({"type": kind, kind: {"url": data_url(item, lossless=True).decode()}})
    return [{"role": "user", "content": [*parts, {"type": "text", "text": prompt.text}]}]


def request_seeds(prompts: Sequence[Prompt], seed: int) -> list[int]:
    """A seed for each side's request, of the block's seed and the side, not of its place in the block; a side that
    comes again (pairs often share a target) gets another: its groups differ, as those of one sampler would."""
    times: Counter[str] = Counter()
    seeds = []
    for prompt in prompts:
        before = times[prompt.key]
        # 31 bits: vLLM adds a rollout's number in its group.
        seeds.append(draw_priority(seed, f"{prompt.key}/{before}" if before else prompt.key) >> 33)
        times[prompt.key] += 1
    return seeds


def sampling_fields(sampling: Sampling, ids: TokenIds, group: int, seed: int) -> dict[str, Any]:
    """How a group is sampled, by the names that requests and `vllm.SamplingParams` share. seed: of `request_seeds`.

    Every field that a checkpoint's generation_config would set otherwise is given. `<gen_emb>` stops nothing: the end
    of the turn follows it.
    """
    return {
        "n": group,
        "temperature": sampling.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": sampling.max_new_tokens,
        # The end of the turn alone, as in the trainer: a checkpoint's generation_config names further ids.
        "ignore_eos": True,
        "stop_token_ids": [ids.end_of_turn],
        "skip_special_tokens": False,
        "logit_bias": dict.fromkeys(sampling.banned, _LEAST_BIAS),
        "seed": seed,
    }


def check_prompt(prompt: Prompt, used: Sequence[int]) -> None:
    """Raises Fatal unless vLLM read the very tokens that the trainer scores. used: its prompt, media expanded."""
    if tuple(used) == prompt.row.prompt:
        return
    raise Fatal(
        f"vLLM read side {prompt.key} as {len(used)} tokens, the trainer has {len(prompt.row.prompt)} of them"
        f"{_first_difference(used, prompt.row.prompt)}.",
        "Serve the folder that the trainer writes as it is (deploy/rollouts.sh): with its own chat template, without "
        "--mm-processor-kwargs, and with --media-io-kwargs for clips of more than 32 frames.",
    )


def completion(token_ids: Iterable[int], logprobs: Iterable[float], sampling: Sampling, prompt: Prompt) -> Completion:
    """One rollout as the trainer takes it. Raises Fatal for a banned id: there would be no features for it."""
    ids = tuple(token_ids)
    if found := set(ids) & set(sampling.banned):
        raise Fatal(
            f"The policy writes the placeholder {min(found)} for side {prompt.key}, against a bias of -100.",
            "Its weights are damaged: go back to an earlier checkpoint.",
        )
    return Completion(ids, tuple(logprobs))


def _first_difference(used: Sequence[int], row: Sequence[int]) -> str:
    for place, (theirs, ours) in enumerate(zip(used, row, strict=False)):
        if theirs != ours:
            return f"; token {place} is {theirs} there and {ours} here"
    return ""
