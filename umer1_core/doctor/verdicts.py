"""What the doctor says: one line a finding, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from umer1_core.errors import Umer1Error

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`about`: a source, or a part of the recipe. `remedy` is empty only where nothing is to be done."""

    level: Level
    about: str
    message: str
    remedy: str = ""


def failed(about: str, error: Umer1Error) -> Verdict:
    return Verdict("error", about, error.message, error.remedy)


def worst(verdicts: Iterable[Verdict]) -> Level:
    levels = {verdict.level for verdict in verdicts}
    return "error" if "error" in levels else "warning" if "warning" in levels else "ok"
