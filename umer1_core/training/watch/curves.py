"""The curves of a training as one SVG that needs nothing else, from the records of its log.

Guarantees: pure; the picture's size is bounded whatever the number of steps; readable on a light and on a dark page, as
it brings its own background. Geometry is computed here, drawn by `templates/curves.svg.jinja`.

A line is the mean over a moving window of a twentieth of the steps, its points are single steps. The axis holds all but
the outermost hundredth at either end; those count in the mean as what is next to them, so a spike flattens nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from umer1_core.training.watch.log import best_evaluation
from umer1_core.training.watch.sheet import Frame, Plan, Record, Series, Sheet
from umer1_core.training.watch.sheets import SFT

WIDTH = 900
_LABEL_GAP = 14.0
_POINTS, _VERTICES = 240, 120
_LOG_FROM = 8.0  # the ratio of largest and smallest value from which an axis is logarithmic


@dataclass(frozen=True, slots=True)
class Curve:
    """line, points: SVG paths; marks: places of evaluations; label: its text at the line's end, and the height of it.

    tone: the style sheet's name of its colour.
    """

    tone: str
    line: str
    points: str
    marks: tuple[tuple[float, float], ...]
    label: str
    label_y: float


@dataclass(frozen=True, slots=True)
class Panel:
    """ticks: (pixel, text). best: the pixel of the step with the best evaluation."""

    title: str
    note: str
    frame: Frame
    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    best: float | None = None


def curves_svg(steps: Sequence[Record], evaluations: Sequence[Record] = (), sheet: Sheet = SFT) -> str:
    """The picture: the panels of a stage's sheet."""
    environment = Environment(
        loader=PackageLoader("umer1_core.training.watch"), autoescape=True, undefined=StrictUndefined
    )
    environment.trim_blocks = environment.lstrip_blocks = True
    panels = [_panel(plan, steps, evaluations) for plan in sheet.plans]
    template = environment.get_template("curves.svg.jinja")
    return template.render(width=WIDTH, height=sheet.height, tones=sheet.tones, panels=panels)


def smooth(values: np.ndarray) -> np.ndarray:
    """The mean over a centred window of a twentieth of the values, cut off at both ends."""
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, end = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[end] - sums[first]) / (end - first)


@dataclass(frozen=True, slots=True)
class _Axes:
    """From (step, value) to pixels; a value beyond the axis lies on its end."""

    frame: Frame
    first: float
    last: float
    low: float
    high: float
    logarithmic: bool

    def x(self, step: float) -> float:
        return round(self.frame.left + self.frame.width * (step - self.first) / (self.last - self.first), 1)

    def y(self, value: float) -> float:
        bounded = min(max(value, self.low), self.high)
        share = (bounded - self.low) / (self.high - self.low)
        if self.logarithmic:
            share = math.log(bounded / self.low) / math.log(self.high / self.low)
        return round(self.frame.top + self.frame.height * (1 - share), 1)

    def places(self, values: np.ndarray, at_most: int) -> list[tuple[float, float]]:
        """values: [n, 2]; of many, so many evenly."""
        return [(self.x(step), self.y(value)) for step, value in _thinned(values, at_most).tolist()]


def _panel(plan: Plan, steps: Sequence[Record], evaluations: Sequence[Record]) -> Panel:
    found = {
        series: _values(steps, series.name) if series.name else _values(evaluations, series.evaluated)
        for series in plan.series
    }
    # Of several, one that is zero throughout is a term that this training does not have.
    found = {series: v for series, v in found.items() if v[:, 1].any() or (len(v) and len(plan.series) == 1)}
    if not found:
        return Panel(plan.title, plan.note, plan.frame, (), (), ())
    ends = {series: _ends(v[:, 1]) for series, v in found.items()}
    lines = {s: np.column_stack([v[:, 0], smooth(v[:, 1].clip(*ends[s]))]) for s, v in found.items()}
    outer = [r["step"] for r in (*steps[:1], *steps[-1:], *evaluations[:1], *evaluations[-1:])]
    first, last = min(outer), max(outer)
    axes = _Axes(plan.frame, min(first, last - 1), last, *_range(plan, list(ends.values())))
    heights = _apart([axes.y(float(line[-1, 1])) for line in lines.values()], plan.frame)
    best = best_evaluation(evaluations) if any(series.evaluated for series in found) else None
    return Panel(
        title=plan.title,
        note="logarithmic" if axes.logarithmic else plan.note,
        frame=plan.frame,
        curves=tuple(
            _curve(plan, axes, series, values, lines[series], _values(evaluations, series.evaluated), height)
            for (series, values), height in zip(found.items(), heights, strict=True)
        ),
        x_ticks=tuple((axes.x(t), f"{t:,.0f}") for t in _ticks(axes.first, axes.last, 4) if t == int(t)),
        y_ticks=tuple((axes.y(t), plan.tick(t)) for t in _value_ticks(axes)),
        best=axes.x(best["step"]) if best else None,
    )


def _curve(
    plan: Plan, axes: _Axes, series: Series, values: np.ndarray, line: np.ndarray, marks: np.ndarray, height: float
) -> Curve:
    seen = values[(values[:, 1] >= axes.low) & (values[:, 1] <= axes.high)]
    return Curve(
        tone=series.tone,
        line="M" + "L".join(f"{x} {y}" for x, y in axes.places(line, _VERTICES)),
        points="".join(f"M{x} {y}h0" for x, y in axes.places(seen, _POINTS)),
        marks=tuple(axes.places(marks, _POINTS)),
        label=f"{series.label} {plan.text(float(line[-1, 1]))}".strip(),
        label_y=height,
    )


def _values(records: Sequence[Record], name: str) -> np.ndarray:
    """[records that have the number, 2]: step and value."""
    found = [(r["step"], r[name]) for r in records if r.get(name) is not None and not r.get("skipped")]
    return np.array(found, dtype=float).reshape(-1, 2)


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Where all but the outermost hundredth of the values at either end lies; of few values, all of them."""
    return float(np.quantile(values, 0.01, method="lower")), float(np.quantile(values, 0.99, method="higher"))


def _range(plan: Plan, ends: Sequence[tuple[float, float]]) -> tuple[float, float, bool]:
    """The ends of the vertical axis, and whether it is logarithmic."""
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    if plan.fixed:
        return 0.0, plan.top, False
    if plan.logarithmic and low > 0 and high / low > _LOG_FROM:
        return low / 1.1, high * 1.1, True
    return min(low * 1.1, 0.0), max(high * 1.1, plan.top) or 1.0, False


def _thinned(values: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the rows, evenly, the last one among them."""
    if len(values) <= count:
        return values
    return values[np.linspace(0, len(values) - 1, count).round().astype(int)]


def _value_ticks(axes: _Axes) -> list[float]:
    if axes.logarithmic:
        return _log_ticks(axes.low, axes.high)
    return _ticks(axes.low, axes.high, 4 if axes.frame.height > 150 else 3)


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers inside the range."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    size = min((factor * power for factor in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - rough))
    first = math.ceil(low / size - 1e-9)
    return [round(i * size, 10) for i in range(first, math.floor(high / size + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, and 2 and 5 times them where that leaves room."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if len(found) <= 6:
            return found
    return found[:: math.ceil(len(found) / 6)]


def _apart(heights: Sequence[float], frame: Frame) -> list[float]:
    """Heights of labels, moved so that none covers another and all stay beside the plot."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = [0.0] * len(heights)
    floor = frame.top + 4
    for i in order:
        placed[i] = floor = max(heights[i], floor)
        floor += _LABEL_GAP
    ceiling = frame.top + frame.height
    for i in reversed(order):
        placed[i] = ceiling = min(placed[i], ceiling)
        ceiling -= _LABEL_GAP
    return [round(p, 1) for p in placed]
