"""A line of the benchmark table."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """ratio = ours / peer; the goal bounds it from below where more is better, from above where less is."""

    name: str
    ours: float
    peer: float
    unit: str
    peer_name: str
    goal: float
    more_is_better: bool

    @property
    def ratio(self) -> float:
        return self.ours / self.peer if self.peer else float("inf")

    @property
    def ok(self) -> bool:
        return self.ratio >= self.goal if self.more_is_better else self.ratio <= self.goal

    @property
    def goal_text(self) -> str:
        return f"{'≥' if self.more_is_better else '≤'} {self.goal:g}"


def median_cpu_seconds(function: Callable[[], object], runs: int = 5) -> float:
    """CPU seconds of this process for a call, the median of some: the machine is shared."""
    return cpu_seconds_in_turn(function, runs=runs)[0]


def cpu_seconds_in_turn(*functions: Callable[[], object], runs: int = 5) -> list[float]:
    """The medians of several ways, called in turn: a busy minute of the machine weighs on all of them."""
    for function in functions:
        function()
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(runs):
        for function, own in zip(functions, seconds, strict=True):
            started = time.process_time()
            function()
            own.append(time.process_time() - started)
    return [statistics.median(own) for own in seconds]
