"""Presets of the recipe's sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_preset(given: Any, presets: Mapping[str, Mapping[str, Any]]) -> Any:
    """What a section is given, and where it is silent what its preset says.

    Filled in when the recipe is read and not where it is used: the manifest shows what was trained with. What is no
    section, or names no preset that there is, is left to the validation of fields.
    """
    if not isinstance(given, dict) or given.get("preset", "default") not in presets:
        return given
    return {**presets[given.get("preset", "default")], **given}
