"""About how many tokens the annotator reads of a side, without its tokenizer.

GLM-4.1V and Qwen2-VL cut pictures into squares of 28 pixels, a token each, and read two frames of a clip as one; their
tokenizers make a token of about four characters of English, and of about one of scripts without spaces.
"""

from __future__ import annotations

from schemas.sources import MediaRules
from umer1_core.pairs import Media, Side
from umer1_core.template import annotation_text

_PIXELS = 28 * 28
_CHARS = 4
_FRAMES = 2


def side_tokens(side: Side, rules: MediaRules) -> int:
    """Media, text and the annotation prompt."""
    return text_tokens(annotation_text(side.text)) + sum(media_tokens(item, rules) for item in side.media)


def text_tokens(text: str) -> int:
    wide = sum(1 for character in text if ord(character) > 0x2E7F)
    return wide + (len(text) - wide + _CHARS - 1) // _CHARS


def media_tokens(media: Media, rules: MediaRules) -> int:
    a_picture = max(1, round(min(media.width * media.height, rules.max_pixels) / _PIXELS))
    if media.kind == "image":
        return a_picture
    return a_picture * max(1, (len(media.frames) + 1) // _FRAMES)
