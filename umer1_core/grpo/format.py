"""The format reward (UME-R1 section 3.3), strict and judged on token ids.

Guarantees: a rollout is good where it is `<think>…</think><answer>summary<gen_emb>` and the end of the turn, nothing
before, between or after. `<gen_emb>` counts as the token it is: the same letters in other tokens have no state that was
trained to be an embedding. What stands before it is judged by the one parser, `template.parse_rollout`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from umer1_core.backbone.model import TokenIds
from umer1_core.template import PROBLEMS, parse_rollout

Decode = Callable[[Sequence[int]], str]
"""Token ids to text, special tokens kept: a tokenizer's `decode`."""

# Everything that `format_problem` can find wrong.
FORMAT_PROBLEMS = (*PROBLEMS, "no_gen_emb", "several_gen_emb", "text_after_gen_emb", "text_after_turn")


def format_problem(completion_ids: Sequence[int], ids: TokenIds, decode: Decode) -> str:
    """Why a rollout earns no format reward: one of FORMAT_PROBLEMS, the first that holds; empty where it is good.

    completion_ids: as sampled, without padding, the end of the turn included. Without one it was cut: `truncated`.
    Ids after the end of the turn: `text_after_turn`. Never raises.
    """
    body, problem = _turn(list(completion_ids), ids.end_of_turn)
    return problem or _tag_problem(body, ids) or parse_rollout(decode(body)).problem


def _turn(completion: list[int], end_of_turn: int) -> tuple[list[int], str]:
    """What stands before the end of the turn, and what is wrong with where the turn ends."""
    ends = completion.index(end_of_turn) if end_of_turn in completion else len(completion)
    if ends == 0:
        return [], "empty_completion" if len(completion) < 2 else "text_after_turn"
    if ends == len(completion):
        return completion, "truncated"
    return completion[:ends], "" if ends == len(completion) - 1 else "text_after_turn"


def _tag_problem(body: list[int], ids: TokenIds) -> str:
    """What is wrong with the student's own tags. body: not empty."""
    if ids.disc in body:
        return "student_tags"
    found = body.count(ids.gen)
    if found != 1:
        return "several_gen_emb" if found else "no_gen_emb"
    return "" if body[-1] == ids.gen else "text_after_gen_emb"
