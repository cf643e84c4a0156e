"""The teacher's tokenizer, chat template, processors and the replies it learns.

The tokenizer is a byte-level BPE trained here on the world's sentences, every digit a token of its own. The tags are
added as ordinary tokens: special ones would vanish from decoded text, and with them the check of the form.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from umer1_core.miniature import instructions as say
from umer1_core.miniature.samples import PAIR_MAKERS, SideSample, draw_pair
from umer1_core.miniature.tokenizer import learn_tokenizer
from umer1_core.template import (
    ANNOTATION_PROMPT,
    ANSWER_CLOSE,
    ANSWER_OPEN,
    BOX_CLOSE,
    BOX_OPEN,
    TEACHER_TAGS,
    THINK_CLOSE,
    THINK_OPEN,
)

SPECIAL = (
    "<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
    "<|begin_of_image|>", "<|image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|video|>", "<|end_of_video|>",
)  # fmt: skip
_LEARNED_VOCABULARY = 1140

CHAT_TEMPLATE = """[gMASK]<sop>
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}<|assistant|>{{ '\\n' }}
{%- elif message.role == 'system' -%}<|system|>{{ '\\n' }}
{%- else -%}<|user|>{{ '\\n' }}
{%- endif -%}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for item in message.content -%}
{%- if item.type == 'image' or 'image' in item -%}<|begin_of_image|><|image|><|end_of_image|>
{%- elif item.type == 'video' or 'video' in item -%}<|begin_of_video|><|video|><|end_of_video|>
{%- elif item.type == 'text' -%}{{ item.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{{ '\\n' }}{%- endif -%}
"""
PROMPT_OPEN, PROMPT_CLOSE = "[gMASK]<sop><|user|>\n", "<|assistant|>\n"

# Of a hundred replies, how many fail as the real teacher's do: it loops, forgets a tag, or talks on.
FAILURES = {"loop": 0.10, "no_think": 0.02, "no_answer": 0.02, "talks_on": 0.025}
_LOOP_PIECES = 8
_BOXED = 0.4


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer; the same seed gives the same file."""
    return learn_tokenizer(
        _corpus(random.Random(seed)),
        _LEARNED_VOCABULARY,
        SPECIAL,
        TEACHER_TAGS,
        ("<|image|>", "<|video|>"),
        "<|endoftext|>",
        CHAT_TEMPLATE,
    )


def _corpus(rng: random.Random) -> list[str]:
    fixed = [
        ANNOTATION_PROMPT,
        *say.OTHER_IMAGE,
        *say.OTHER_TEXT,
        "Let me look at the again. I hope this helps.",
    ]
    lines = [line for line in fixed for _ in range(400)]
    for source in PAIR_MAKERS:
        for _ in range(400):
            pair = draw_pair(rng, "train", source)
            for side in (pair.query, pair.target):
                lines += [side.text, side.thought, side.summary]
    return lines


def write_processors(folder: Path) -> None:
    """Image and video processors, the generation defaults: any picture comes down to six visual tokens at most."""
    common = {
        "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "rescale_factor": 1 / 255, "resample": 3,
        "patch_size": 8, "temporal_patch_size": 2, "merge_size": 2, "processor_class": "Glm4vProcessor",
    }  # fmt: skip
    image = {"image_processor_type": "Glm4vImageProcessor", "size": _area(2 * 32 * 32, 2 * 48 * 32)}
    video = {"video_processor_type": "Glm4vVideoProcessor", "size": _area(8 * 32 * 32, 16 * 32 * 32)}
    frames = {"do_sample_frames": False, "fps": 1, "num_frames": 8, "max_duration": 300}
    _write_json(folder / "preprocessor_config.json", common | image)
    _write_json(folder / "video_preprocessor_config.json", common | video | frames)
    _write_json(folder / "processor_config.json", {"processor_class": "Glm4vProcessor"})
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def _area(shortest: int, longest: int) -> dict[str, int]:
    return {"shortest_edge": shortest, "longest_edge": longest}


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def reply(rng: random.Random, side: SideSample, failures: bool = True) -> tuple[str, bool]:
    """A reply to learn, and whether it ends there (a loop goes on until the token limit)."""
    answer = f"{BOX_OPEN}{side.summary}{BOX_CLOSE}" if rng.random() < _BOXED else side.summary
    thought, closed = f"{THINK_OPEN}{side.thought}", f"{ANSWER_OPEN}{answer}{ANSWER_CLOSE}"
    weights = [1 - sum(FAILURES.values()), *FAILURES.values()]
    kind = rng.choices(["", *FAILURES], weights)[0] if failures else ""
    if kind == "loop":
        return thought + " Let me look again." * _LOOP_PIECES, False
    if kind == "no_think":
        return f"{side.thought}\n{closed}", True
    if kind == "no_answer":
        return f"{thought}{THINK_CLOSE}\n{answer}", True
    tail = "\nI hope this helps." if kind == "talks_on" else ""
    return f"{thought}{THINK_CLOSE}\n{closed}{tail}", True
