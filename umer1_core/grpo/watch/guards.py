"""When a training must stop: its reward's components, KL, length, entropy and numbers, held against their beginning.

    guards = Guards(settings, read_lines(folder / STEPS))
    stop = guards.check(record)

Guarantees: a verdict depends on the settings and on the records of the steps up to it alone, so a resumed training
stops where one would that was not interrupted. The total reward is not looked at: it may rise by the format while the
embedding collapses. A measure that a record lacks stops nothing; of those it has, only loss and gradient must be
numbers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.grpo_guards import GrpoGuards
from umer1_core.errors import Fatal

Record = Mapping[str, Any]

_LEAST_BASELINE = 0.05  # what a limit is a share of is at least this: shares of nearly nothing are noise

_REMEDY = {
    "format": "lower learning_rate or raise beta; completions that are cut off are malformed, see `truncated`",
    "ranking": "lower learning_rate, raise beta or set anchor; the format's reward may outweigh it",
    "gap": "lower learning_rate, raise beta or set anchor; the format's reward may outweigh it",
    "kl": "lower learning_rate or raise beta",
    "tokens": "read what is written (umer1 rollouts); lower learning_rate or raise beta",
    "entropy": "raise temperature where it fell; lower learning_rate or raise beta",
    "loss": "lower learning_rate, or look for the row that makes it",
    "grad_norm": "lower learning_rate, or look for the row that makes it",
}


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a training stops after `step`. value: the window's mean; limit: what it has passed; baseline: of the start.

    baseline is nan for a limit that is not relative to the start.
    """

    measure: str
    value: float
    limit: float
    baseline: float
    step: int

    @property
    def message(self) -> str:
        """What happened, in a sentence."""
        if not math.isfinite(self.value):
            return f"Step {self.step}: {self.measure} is no number."
        side = "above" if self.value > self.limit else "below"
        came = "" if math.isnan(self.baseline) else f"; it began at {self.baseline:.3g}"
        return f"Step {self.step}: {self.measure} is {self.value:.3g}, {side} the limit of {self.limit:.3g}{came}."

    @property
    def remedy(self) -> str:
        return f"Go on from the last good checkpoint: {_REMEDY[self.measure]}. grpo.guards sets the limits."

    def error(self) -> Fatal:
        """To raise once the last good checkpoint is safe."""
        return Fatal(self.message, self.remedy)


class Guards:
    """Judges each step's record. records: of the steps that were done before, in order, as the step log has them."""

    def __init__(self, settings: GrpoGuards, records: Iterable[Record] = ()) -> None:
        self.settings = settings
        self._first: list[Record] = []
        self._last: deque[Record] = deque(maxlen=settings.window)
        self._bad = {"loss": 0, "grad_norm": 0}
        for record in records:
            self._take(record)

    def check(self, record: Record) -> Stop | None:
        """Take a step's record in; a Stop where the training must end here."""
        self._take(record)
        if not self.settings.enabled:
            return None
        return next(self._found(record["step"]), None)

    def _take(self, record: Record) -> None:
        for name in self._bad:
            good = name not in record or _is_number(record[name])
            self._bad[name] = 0 if good else self._bad[name] + 1
        if len(self._first) < self.settings.window:
            self._first.append(record)
        self._last.append(record)

    def _found(self, step: int) -> Iterator[Stop]:
        settings = self.settings
        for name, count in self._bad.items():
            if count >= settings.bad_steps:
                yield Stop(name, math.nan, math.nan, math.nan, step)
        if step <= max(settings.window, settings.warm_up):
            return
        for name, fall in (
            ("format", settings.format_fall),
            ("ranking", settings.ranking_fall),
            ("gap", settings.gap_fall),
        ):
            yield from self._falls(name, fall, step)
        yield from self._leaves("tokens", settings.shortest, settings.longest, step)
        yield from self._leaves("entropy", settings.least_entropy, settings.most_entropy, step)
        kl = _mean(_values(self._last, "kl"))
        if kl > settings.max_kl:
            yield Stop("kl", kl, settings.max_kl, math.nan, step)

    def _falls(self, name: str, share: float, step: int) -> Iterator[Stop]:
        """Below the baseline by more than a share of it."""
        first, last = _values(self._first, name), _values(self._last, name)
        baseline = _mean(first)
        limit = baseline - share * max(abs(baseline), _LEAST_BASELINE)
        if _mean(last) < limit and self._is_clear(first, last):
            yield Stop(name, _mean(last), limit, baseline, step)

    def _leaves(self, name: str, least: float, most: float, step: int) -> Iterator[Stop]:
        """Below or above these multiples of the baseline."""
        first, last = _values(self._first, name), _values(self._last, name)
        baseline = _mean(first)
        low, high = least * baseline, most * max(baseline, _LEAST_BASELINE)
        value = _mean(last)
        if (value < low or value > high) and self._is_clear(first, last):
            yield Stop(name, value, low if value < low else high, baseline, step)

    def _is_clear(self, first: Sequence[float], last: Sequence[float]) -> bool:
        """Whether two means differ by more than the noise of the steps. False where either has no value."""
        if not first or not last:
            return False
        error = math.sqrt(sum(float(np.var(part)) / max(1, len(part) - 1) for part in (first, last)))
        return abs(_mean(first) - _mean(last)) > self.settings.sigmas * error


def _values(records: Iterable[Record], name: str) -> list[float]:
    """Of the steps that have a number for it."""
    return [float(record[name]) for record in records if name in record and _is_number(record[name])]


def _mean(values: Sequence[float]) -> float:
    """nan, which passes no limit, where there is no value."""
    return sum(values) / len(values) if values else math.nan


def _is_number(value: float | None) -> bool:
    """The step log writes null where a number is not finite."""
    return value is not None and math.isfinite(value)
