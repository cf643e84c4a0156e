"""Which texts can be shown to a model at all.

Guarantees: a text that passes reaches the tokenizer byte for byte. Emoji, right-to-left scripts, any length, and tags
that are only words (`<think>`, `<image>`) stay. Refused are tokens that would move what is read by position: the
embedding tokens, and the turn and media tokens of the student's and the annotator's chat forms.
"""

from __future__ import annotations

import re
from typing import Any

from umer1_core.errors import BadInput
from umer1_core.template import DISC_EMB, GEN_EMB

RESERVED = (
    GEN_EMB,
    DISC_EMB,
    # Qwen2-VL
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    # GLM-4.1V
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<|image|>",
    "<|video|>",
    "[gMASK]",
)
_RESERVED = re.compile("|".join(map(re.escape, RESERVED)))
_UNENCODABLE = re.compile("[\0\ud800-\udfff]")


def check_text(text: str, field: str) -> None:
    """Raises BadInput (`bad_text`, `reserved_tag`) with the field and the place in the text."""
    if found := _UNENCODABLE.search(text):
        raise BadInput("bad_text", f"{field} has {found.group()!a} at character {found.start()}")
    if ("<" in text or "[" in text) and (found := _RESERVED.search(text)):
        raise BadInput("reserved_tag", f"{field} has {found.group()} at character {found.start()}, a model's own token")


def text_of(value: Any, field: str, row: int, file: str) -> str:
    """A cell as text, `None` as nothing. Raises BadInput when it is something else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadInput("bad_field", f"{field} of row {row} of {file} is {type(value).__name__}, not text")
    return value
