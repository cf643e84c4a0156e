"""What a stage of training shows of itself: one description for its log, its curves, its page and its line.

Guarantees: plain data and pure functions; what is drawn and written is decided here and in `sheets`, how in `log`,
`curves` and `page`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a panel's plot lies, in pixels of the picture."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Series:
    """A curve. name: the key in a step's record; evaluated: the key in an evaluation's record.

    Without a name there is a value for each evaluation only, and the line joins them. tone: the name of its colour.
    """

    name: str
    label: str
    tone: str
    evaluated: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a panel shows, values times `scale` in `unit`.

    top: the least that its axis reaches to; fixed: it ends there, and is never logarithmic.
    """

    title: str
    frame: Frame
    series: tuple[Series, ...]
    note: str = ""
    scale: float = 1.0
    unit: str = ""
    top: float = 0.0
    fixed: bool = False
    logarithmic: bool = False

    def tick(self, value: float) -> str:
        return f"{round(value * self.scale, 6):,g}{self.unit}"

    def text(self, value: float) -> str:
        """Three digits, two below one."""
        scaled = value * self.scale
        return f"{scaled:,.0f}{self.unit}" if scaled >= 100 else f"{scaled:.{2 + (scaled >= 1)}g}{self.unit}"


@dataclass(frozen=True, slots=True)
class Number:
    """A line of a table. key: in a record; form: how the value is written; kept: shown also where it is always zero."""

    key: str
    words: str
    form: str
    kept: bool = False

    def written(self, value: float | None) -> str:
        return "–" if value is None else self.form.format(value)


@dataclass(frozen=True, slots=True)
class Sheet:
    """A stage's own.

    title: the page's heading; picture: what its curves are of. scalars: a step's keys and their TensorBoard tags.
    line: a step's record in a line; progress: what the page says of the last steps. numbers: of steps; evaluated: of
    evaluations. plans: the panels, in a picture `height` pixels high; tones: colours by name, on light and on dark;
    best: what the best evaluation is called.
    """

    title: str
    picture: str
    scalars: Mapping[str, str]
    line: Callable[[Record], str]
    progress: Callable[[Sequence[Record]], list[str]]
    numbers: tuple[Number, ...]
    evaluated: tuple[Number, ...]
    plans: tuple[Plan, ...]
    height: int
    best: str = "best checkpoint"
    tones: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def mean_of(records: Sequence[Record], name: str) -> float | None:
    """Over the steps that were taken and have the number."""
    values = [r[name] for r in records if r.get(name) is not None and not r.get("skipped")]
    return sum(values) / len(values) if values else None


def thousands(value: float) -> str:
    """`830`, `12.3k`, `1.2M`."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.{0 if abs(value) >= 100 * size else 1}f}{unit}"
    return f"{value:.0f}"


def short(value: float | None) -> str:
    """Three digits; no zero before the point."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3g}"
