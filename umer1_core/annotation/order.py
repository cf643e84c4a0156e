"""The order in which a shard's sides are sent.

Pure. The table itself keeps sides with equal media together and mixes the sources (sampling). What is added here: the
longest inputs start first, so that none of them is what the end of the run waits for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_EARLY_SHARE = 0.1
_PIXELS_A_TOKEN = 28 * 28  # GLM-4.1V and Qwen2-VL alike: patches of 14 merged two by two
_CHARACTERS_A_TOKEN = 4


def send_order(sides: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The longest tenth first, everything else as it stands; sides with equal media stay neighbours."""
    if len(sides) < 1 / _EARLY_SHARE:
        return list(sides)
    costs = [prompt_tokens(side) for side in sides]
    threshold = sorted(costs, reverse=True)[int(_EARLY_SHARE * len(costs))]
    early = {media_key(side) or side["side_key"] for side, cost in zip(sides, costs, strict=True) if cost > threshold}
    return sorted(sides, key=lambda side: (media_key(side) or side["side_key"]) not in early)


def prompt_tokens(side: dict[str, Any]) -> int:
    """An estimate: pixels of all media and characters of the text."""
    pixels = sum(m["width"] * m["height"] * max(1, len(m["frames"] or ())) for m in side["media"])
    return int(pixels / _PIXELS_A_TOKEN + len(side["text"]) / _CHARACTERS_A_TOKEN)


def media_key(side: dict[str, Any]) -> str:
    """Equal for sides that show the server the same first image or clip; empty without media."""
    return side["media"][0]["content_hash"] if side["media"] else ""
