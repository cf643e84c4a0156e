"""kill -9 at a hundred random moments of a run."""

from collections.abc import Iterator

from tests.annotation.kills import kill_run
from tests.bench.line import Line


def lines() -> Iterator[Line]:
    cost = kill_run(rows=20_000, kills=100, seed=1)
    if cost.kills < 100 or cost.repeated == 0:
        raise RuntimeError(f"the kills came too late: {cost}")
    name = "annotation: sides lost, doubled or paid for twice by 100 kills of 20,000 rows"
    wrong = cost.lost + cost.duplicated + cost.paid_twice
    yield Line(name, wrong, max(cost.durable_at_kills), "sides", "durable at the last kill", 0.0, False)
