"""Stage 1 on the miniature's student: the step, its token loss and its data against what others do; what it learns."""

from collections.abc import Iterator

from tests.bench import sft_ce, sft_data, sft_learning, sft_step
from tests.bench.line import Line


def lines() -> Iterator[Line]:
    yield from sft_step.lines()
    yield from sft_ce.lines()
    yield from sft_data.lines()
    yield from sft_learning.lines()
