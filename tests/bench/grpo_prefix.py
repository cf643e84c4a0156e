"""Groups of eight rollouts that share their prompt, against a copy of the prompt for each; the miniature, one thread.

Miniature: prompts are those of the rl table, both sides; completions are responses of the cold_start table, so their
lengths are the ones that are learned: 35 tokens of prompt, 32 of response. Sharing all that can be shared would leave
.54 of the tokens; the plain way in TRL also pads, to the longest prompt and the longest completion of a block.
Long: the same student on 660 tokens of prompt and 300 of response, where sharing would leave .40.
Both ways run the same attention and head; the vision tower is trained, as in RL.
Memory: growth at the peak in one pass over a long group, each way in a fresh process.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar
from trl.trainer.utils import add_fused_lm_head

from tests.bench.line import Line, median_cpu_seconds
from tests.bench.memory import in_fresh_process, peak_growth
from tests.bench.miniature import data_set
from umer1_core.backbone.collate import Encoder, Row
from umer1_core.backbone.model import Backbone, load_backbone
from umer1_core.backbone.shared_prefix import Group, collate_groups, model_inputs
from umer1_core.miniature.student import build_student
from umer1_core.pairs import media_from_record

_ROLLOUTS, _PASS, _TIMED, _BLOCK_PAIRS = 8, 8, 64, 8
_PROMPT, _RESPONSE = 660, 300


def lines() -> Iterator[Line]:
    _quietly()
    ours, padded = sum(group.tokens() for group in _groups()), _as_trl_pads_them(_groups())
    yield Line("grpo: tokens, miniature, prompt shared", ours, padded, "tokens", "TRL: padded", 0.45, False)
    yield from _compared("miniature", _groups(), 0.6, 0.75)
    yield from _compared("long", [_long_group()], 0.45, 0.5)
    memory = [in_fresh_process("tests.bench.grpo_prefix", str(int(share))) for share in (True, False)]
    yield Line("grpo: peak memory of a long group", memory[0], memory[1], "MB", "a copy each", 0.65, False)


def _compared(name: str, groups: Sequence[Group], of_tokens: float, of_time: float) -> Iterator[Line]:
    """of_tokens, of_time: the goals."""
    tokens = [sum(group.tokens(share) for group in groups) for share in (True, False)]
    yield Line(f"grpo: tokens, {name}, prompt shared", tokens[0], tokens[1], "tokens", "a copy each", of_tokens, False)
    seconds = [_seconds(groups[:_TIMED], share) for share in (True, False)]
    said = f"grpo: forward and backward, {name}, shared"
    yield Line(said, seconds[0], seconds[1], "CPU s", "a copy each", of_time, False)


def _as_trl_pads_them(groups: Sequence[Group]) -> int:
    """Tokens of the plain way: in a block, prompts are padded to the longest on the left, completions on the right."""
    tokens = 0
    for first in range(0, len(groups), 2 * _BLOCK_PAIRS):
        block = groups[first : first + 2 * _BLOCK_PAIRS]
        longest = max(len(c) for group in block for c in group.completions)
        tokens += len(block) * _ROLLOUTS * (max(len(group.prompt) for group in block) + longest)
    return tokens


def _quietly() -> None:
    torch.set_num_threads(1)
    disable_progress_bar()


@cache
def _groups() -> Sequence[Group]:
    """Of every side of the rl table; the n-th group is given the n-th responses."""
    student = _student()
    encoder = Encoder(student, 1_024)
    written = [encoder.encode("<disc_emb>", (), text).response for text in _responses()]
    groups = []
    for record in data_set().iterate("rl"):
        for side in ("query", "target"):
            media = [media_from_record(item) for item in record[f"{side}_media"]]
            first = len(groups) * _ROLLOUTS
            drawn = tuple(written[(first + i) % len(written)] for i in range(_ROLLOUTS))
            groups.append(Group(encoder.encode(record[f"{side}_prompt"], media), drawn))
    return groups


def _long_group() -> Group:
    length = _PROMPT + _ROLLOUTS * _RESPONSE
    ids = [place % 256 + 8 for place in range(length)]
    prompt = Row(tuple(ids[:_PROMPT]), (), (), torch.arange(_PROMPT).expand(3, -1))
    return Group(prompt, tuple(tuple(ids[first : first + _RESPONSE]) for first in range(_PROMPT, length, _RESPONSE)))


def _responses() -> Sequence[str]:
    sides = ("query_response", "target_response")
    return [record[side] for record in islice(data_set().iterate("cold_start"), 1_000) for side in sides]


@cache
def _student() -> Backbone:
    with tempfile.TemporaryDirectory() as folder:
        rows = data_set().iterate("cold_start")
        build_student(Path(folder), 0, [text for row in rows for text in (row["query_prompt"], row["query_response"])])
        backbone = load_backbone(folder)
    add_fused_lm_head(backbone.model, outputs=("log_probs", "entropy"))
    return backbone


def _score(groups: Sequence[Group], share: bool) -> None:
    student = _student()
    batch = collate_groups(groups, student.ids, student.device, share)
    output = student.model(**model_inputs(student, batch), shift_labels=batch.shift_labels, fused_lm_head=True)
    output.log_probs.sum().backward()
    student.model.zero_grad()


def _seconds(groups: Sequence[Group], share: bool) -> float:
    def score() -> None:
        for first in range(0, len(groups), _PASS):
            _score(groups[first : first + _PASS], share)

    return median_cpu_seconds(score, runs=3)


def _peak_growth(share: bool) -> float:
    """Megabytes."""
    _quietly()
    group = _long_group()
    _score([Group(group.prompt, group.completions[:1])], share)
    return peak_growth(lambda: _score([group], share))


if __name__ == "__main__":
    print(json.dumps(_peak_growth(sys.argv[1] == "1")))  # noqa: T201
