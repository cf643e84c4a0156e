"""What the UI shows of a training at work: a progress bar and the curves, read from the training's log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from tasks.common import kept_current
from umer1_core.reports import report_link
from umer1_core.store import Store
from umer1_core.training.watch.curves import curves_svg
from umer1_core.training.watch.log import EVALUATIONS, STEPS, read_lines
from umer1_core.training.watch.page import headline, training_page
from umer1_core.training.watch.sheet import Sheet

_CURVES_SECONDS = 15.0


@contextmanager
def training_board(store: Store, folder: Path, total: int, sheet: Sheet, name: str) -> Iterator[None]:
    """Keeps the artifacts `<name>-progress` and `<name>-curves` current from the log in `folder` while the block runs.

    Whoever trains, this process or others, writes that log. The artifacts stay at their last state.
    """
    with kept_current(_Board(store, folder, total, sheet, name).update):
        yield


class _Board:
    def __init__(self, store: Store, folder: Path, total: int, sheet: Sheet, name: str) -> None:
        self.store, self.folder, self.total, self.sheet = store, folder, total, sheet
        self.name, self.file = name, f"{name}-curves.svg"
        self.progress: UUID | None = None
        self.curves: UUID | None = None
        self.drawn = 0.0

    def update(self, last: bool) -> None:
        steps = read_lines(self.folder / STEPS)
        percent = 100.0 * steps[-1]["step"] / self.total if steps else 0.0
        said = headline(steps, self.total, self.sheet)
        if self.progress is None:
            # Called without an event loop these return the ids themselves, not coroutines.
            self.progress = cast(UUID, create_progress_artifact(percent, key=f"{self.name}-progress", description=said))
        else:
            update_progress_artifact(self.progress, percent, description=said)
        if steps and (last or time.monotonic() - self.drawn > _CURVES_SECONDS):
            self._draw(steps, said)
            self.drawn = time.monotonic()

    def _draw(self, steps: list[dict], said: str) -> None:
        evaluations = read_lines(self.folder / EVALUATIONS)
        picture = curves_svg(steps, evaluations, self.sheet)
        link = report_link(self.store, self.file)
        if link:
            self.store.write_bytes(f"report/{self.file}", picture.encode())
        page = training_page(steps, evaluations, self.total, picture, link, self.sheet)
        if self.curves is None:
            made = create_markdown_artifact(key=f"{self.name}-curves", description=said, markdown=page)
            self.curves = cast(UUID, made)
            return
        with get_client(sync_client=True) as client:
            client.update_artifact(self.curves, ArtifactUpdate(data=page, description=said))
