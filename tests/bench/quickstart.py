"""The main job at reduced size: what running it again costs against running it first."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.line import Line
from tests.flows.main_job import make_place, run


def lines() -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as folder:
        place = make_place(Path(folder))
        first, again = (_seconds(place) for _ in range(2))
    yield Line("quickstart: run again against first run", again, first, "s", "first run", 0.5, False)
    yield Line("quickstart: run again against a minute", again, 60.0, "s", "the limit", 1.0, False)


def _seconds(place) -> float:
    started = time.monotonic()
    code, printed = run(place, "build", str(place.recipe))
    if code:
        raise RuntimeError(printed)
    return time.monotonic() - started
