"""The training step, its token loss and its data: each against what others do, on the miniature's student."""

from collections.abc import Iterator

from tests.bench import sft_ce, sft_data, sft_step
from tests.bench.line import Line


def lines() -> Iterator[Line]:
    yield from sft_step.lines()
    yield from sft_ce.lines()
    yield from sft_data.lines()
