"""The miniature's student: a fresh Qwen2-VL of less than half a million parameters, as a transformers checkpoint.

Guarantee: the same texts and seed give the same files. The folder loads like Qwen/Qwen2-VL-2B-Instruct, through
`AutoProcessor` and `Qwen2VLForConditionalGeneration`. The tokenizer is a byte-level BPE learned from the texts;
sentences that many of them share (instructions, the prompt of section 3.2) and the names of the turns are one token
each, which keeps rows short.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from umer1_core.miniature.tokenizer import learn_tokenizer
from umer1_core.template import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    GENERATION_PROMPT,
    STUDENT_TAGS,
    THINK_CLOSE,
    THINK_OPEN,
)

PATCH, MERGE, TEMPORAL = 8, 2, 2
_TEXT_WIDTH, _VISION_WIDTH, _HEAD, _LAYERS, _VISION_LAYERS = 96, 64, 32, 3, 2
_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
_TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE, *STUDENT_TAGS)
_TURNS = ("user\n", "assistant\n")
_LEARNED_VOCABULARY = 800
_PHRASE_WORDS, _PHRASE_SHARE, _PHRASE_LEAST = 4, 0.004, 12
# What the blocks add to the stream starts this much smaller than by fan-in: the embeddings (0.05) would drown in it,
# and with them what is to be copied from the input.
_BRANCH_ENDS, _BRANCH_GAIN = ("o_proj.weight", "down_proj.weight", "attn.proj.weight", "mlp.fc2.weight"), 0.1

_CHAT_TEMPLATE = """{%- for message in messages -%}
<|im_start|>{{ message.role }}{{ '\\n' }}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for item in message.content -%}
{%- if item.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif item.type == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>
{%- elif item.type == 'text' -%}{{ item.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}<|im_end|>{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant{{ '\\n' }}{%- endif -%}
"""


def build_student(directory: Path, seed: int, texts: Iterable[str]) -> None:
    """Write a fresh student. texts: what it will read and write, prompts and responses."""
    tokenizer = train_tokenizer(list(texts))
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=_area(32 * 32, 48 * 32), **_pixels()),
        video_processor=Qwen2VLVideoProcessor(size=_area(32 * 32, 32 * 32), cap_pixels_per_frame=False, **_pixels()),
        tokenizer=tokenizer,
        chat_template=_CHAT_TEMPLATE,
    )
    model = new_student(tokenizer.get_vocab(), seed)
    ends = [tokenizer.convert_tokens_to_ids(name) for name in ("<|im_end|>", "<|endoftext|>")]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[1], do_sample=False)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)


def new_student(vocabulary: dict[str, int], seed: int) -> Qwen2VLForConditionalGeneration:
    """A fresh model with weights by fan-in, small where a block ends; leaves torch's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(student_config(vocabulary))
        for name, parameter in model.named_parameters():
            if "embed_tokens" in name:
                nn.init.normal_(parameter, std=0.05)
            elif parameter.ndim >= 2:
                gain = _BRANCH_GAIN if name.endswith(_BRANCH_ENDS) else 1.0
                nn.init.normal_(parameter, std=gain / math.sqrt(parameter[0].numel()))
    return model.float()


def student_config(vocabulary: dict[str, int]) -> Qwen2VLConfig:
    text = {
        "vocab_size": len(vocabulary),
        "hidden_size": _TEXT_WIDTH,
        "intermediate_size": 2 * _TEXT_WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _TEXT_WIDTH // _HEAD,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        "eos_token_id": vocabulary["<|im_end|>"],
        "pad_token_id": vocabulary["<|endoftext|>"],
    }
    vision = {
        "depth": _VISION_LAYERS,
        "embed_dim": _VISION_WIDTH,
        "hidden_size": _TEXT_WIDTH,
        "num_heads": _VISION_WIDTH // _HEAD,
        "mlp_ratio": 2,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": TEMPORAL,
    }
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=vocabulary["<|image_pad|>"],
        video_token_id=vocabulary["<|video_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"],
        vision_end_token_id=vocabulary["<|vision_end|>"],
    )


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    return learn_tokenizer(
        texts,
        _LEARNED_VOCABULARY,
        _SPECIAL,
        (*_TAGS, *_TURNS, *sorted({*_prompt_phrases(), *shared_phrases(texts)})),
        ("<|image_pad|>", "<|video_pad|>"),
        "<|im_end|>",
        _CHAT_TEMPLATE,
    )


def shared_phrases(texts: list[str]) -> list[str]:
    """Stretches of text of some length, between tags and up to the end of a sentence, that many texts have."""
    counts = Counter(piece for text in texts for piece in set(_stretches(text)))
    least = max(_PHRASE_LEAST, round(len(texts) * _PHRASE_SHARE))
    return sorted(piece for piece, n in counts.items() if n >= least and len(piece.split()) >= _PHRASE_WORDS)


def _prompt_phrases() -> list[str]:
    """The stretches of the prompt that every row carries, short ones too."""
    return [piece for piece in _stretches(GENERATION_PROMPT) if len(piece.split()) > 1]


def _stretches(text: str) -> list[str]:
    return re.findall(r"[^<>\n.:?]+[.:?]?", text)


def _pixels() -> dict[str, object]:
    return {
        "patch_size": PATCH,
        "temporal_patch_size": TEMPORAL,
        "merge_size": MERGE,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
    }


def _area(shortest: int, longest: int) -> dict[str, int]:
    return {"shortest_edge": shortest, "longest_edge": longest}
