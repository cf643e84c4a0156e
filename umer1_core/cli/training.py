"""What the verbs that train share: the processes they run in, the lock, and what a person sees meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.progress import Progress

from umer1_core.cli.app import become, console
from umer1_core.compat import PARENT_VARIABLE, end_with_starter
from umer1_core.console import progress_bar
from umer1_core.store import Store
from umer1_core.training.watch.log import terms
from umer1_core.training.watch.sheet import Sheet
from umer1_core.versions import exclusive

_LINE_SECONDS = 10.0  # between lines where there is no terminal for a bar


class Shown:
    """A training's progress: a bar on a terminal, otherwise a line every ten seconds and at the last step.

    main: False on the processes that show nothing.
    """

    def __init__(self, bar: Progress, word: str, total: int, sheet: Sheet, main: bool) -> None:
        self.word, self.total, self.sheet, self.main = word, total, sheet, main
        self._bar, self._task = bar, bar.add_task(word, total=total)
        self._last_line = 0.0

    def step(self, record: dict[str, Any]) -> None:
        """A step that was done."""
        step, said = record["step"], terms(record, self.sheet)
        self._bar.update(self._task, completed=step, description=f"{self.word}  {said}")
        late = time.monotonic() - self._last_line > _LINE_SECONDS
        if not console.is_terminal and (late or step == self.total):
            console.print(f"{self.word}  {step:,}/{self.total:,} steps  {said}", soft_wrap=True)
            self._last_line = time.monotonic()

    def count(self, done: int, rows: int) -> None:
        """Before the first step."""
        self._bar.update(self._task, description=f"counting tokens, {done:,} of {rows:,} pairs")


def launch(config: str, arguments: list[str], processes: int) -> None:
    """Become the launcher of a config's processes, unless none is named or this is one of them."""
    from umer1_core.training.launch import launch_command, launched_kind

    if config and launched_kind() == "one":
        become(launch_command(config, arguments, processes))


@contextmanager
def training_shown(store: Store, word: str, total: int, sheet: Sheet) -> Iterator[Shown]:
    """One of a training's processes: it has joined the others, and the data set is locked while the block runs."""
    from umer1_core.training.quiet import quiet_libraries
    from umer1_core.training.ranks import join_ranks, leave_ranks

    quiet_libraries()
    ranks = join_ranks()
    by_flow = PARENT_VARIABLE in os.environ  # it holds the lock, and its end is theirs
    if by_flow:
        end_with_starter()
    locked = exclusive(store.root, "train") if ranks.main and not by_flow else nullcontext()
    with locked, progress_bar(console, hidden=not ranks.main) as bar:
        yield Shown(bar, word, total, sheet, ranks.main)
    leave_ranks()
