"""From a small sample to the whole: stratified estimates with a range. Pure.

The variance within strata is pooled over all of them, since a stratum of a pilot has two or three members; a range is
two standard errors to each side (about 95 %), and says nothing about what the sample could not see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

_ERRORS = 2.0


@dataclass(frozen=True, slots=True)
class Stratum:
    """`total` members of which some were looked at, with these values."""

    total: float
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Estimate:
    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.low * factor, self.high * factor)

    def dump(self) -> dict[str, float]:
        return asdict(self)


def estimate_total(strata: Sequence[Stratum], variance: float | None = None) -> Estimate:
    """The sum over all members. A stratum that was not looked at is taken to be like the others.

    variance: of a member within its stratum, where it is known better than from the values.
    """
    seen = [stratum for stratum in strata if len(stratum.values)]
    if not seen:
        return Estimate(0.0, 0.0, 0.0)
    common = float(np.mean([value for stratum in seen for value in stratum.values]))
    variance = _pooled_variance(seen) if variance is None else variance
    count = sum(len(stratum.values) for stratum in seen)
    value = error = 0.0
    for stratum in strata:
        looked_at = len(stratum.values)
        value += stratum.total * (float(np.mean(stratum.values)) if looked_at else common)
        unseen = max(0.0, 1 - looked_at / stratum.total) if stratum.total else 0.0
        error += stratum.total**2 * unseen * variance / (looked_at or count)
    spread = _ERRORS * math.sqrt(error)
    return Estimate(value, max(0.0, value - spread), value + spread)


def estimate_count(strata: Sequence[Stratum]) -> Estimate:
    """How many members have a property, from values of 0 and 1; all of a few still leaves room for doubt."""
    values = [value for stratum in strata for value in stratum.values]
    share = (sum(values) + 2) / (len(values) + 4)  # Agresti and Coull
    estimate = estimate_total(strata, share * (1 - share))
    most = sum(stratum.total for stratum in strata)
    return Estimate(estimate.value, estimate.low, min(most, estimate.high))


def _pooled_variance(strata: Sequence[Stratum]) -> float:
    freedom = sum(len(stratum.values) - 1 for stratum in strata)
    if freedom < 1:
        return float(np.var([value for stratum in strata for value in stratum.values]))
    squares = sum(float(np.var(stratum.values)) * len(stratum.values) for stratum in strata)
    return squares / freedom
