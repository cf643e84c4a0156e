"""Stage 2 on the miniature's student: rewards and shared prefixes against the plain ways; what RL teaches."""

from collections.abc import Iterator

from tests.bench import grpo_learning, grpo_prefix, grpo_rewards
from tests.bench.line import Line


def lines() -> Iterator[Line]:
    yield from grpo_rewards.lines()
    yield from grpo_prefix.lines()
    yield from grpo_learning.lines()
