"""What the trainings of a data set came to: the student that GRPO starts from, where GRPO writes, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import orjson

from umer1_core.errors import Fatal
from umer1_core.store import Store
from umer1_core.versions import local_folder

REPORT = "report.md"  # before GRPO and after


@dataclass(frozen=True, slots=True)
class Finished:
    """How a training ended. model: folder of the kept checkpoint, of `steps` steps; stopped: what a guard found.

    changed: the headline of the before/after report, where there is one.
    """

    model: str
    steps: int
    rejected_pairs: int
    stopped: str
    changed: str

    @property
    def message(self) -> str:
        """All of it, in a line."""
        said = self.warning or f"GRPO: {self.steps:,} steps."
        rejected = f"{self.rejected_pairs:,} pairs could not be used." if self.rejected_pairs else ""
        changed = f"Held-out slice: {self.changed}." if self.changed else ""
        return " ".join(filter(None, [said, rejected, changed]))

    @property
    def warning(self) -> str:
        """What a person must not overlook; nothing where the training came to its end."""
        if not self.stopped:
            return ""
        kept = f"that of step {self.steps:,}" if self.steps else "that of SFT"
        return f"GRPO was stopped by a guard. {self.stopped} The kept model is {kept}."


def grpo_folder(store: Store) -> Path:
    """Where the training of a data set lies."""
    return local_folder(store, "grpo")


def trained_student(store: Store) -> str:
    """The checkpoint of stage 1. Raises Fatal where there is none."""
    model = local_folder(store, "sft") / "model"
    if not model.exists():
        raise Fatal(f"{store.root} has no student to reinforce.", f"Train one first: umer1 train {store.root}")
    return str(model)


def read_finished(folder: Path) -> Finished | None:
    """None where no training has come to its end."""
    finished = folder / "finished.json"
    if not finished.exists():
        return None
    report = orjson.loads(finished.read_bytes())["report"]
    return Finished(report["model"], report["steps"], report["rejected_pairs"], report["stopped"], _headline(folder))


def read_page(folder: Path) -> str:
    """The before/after report, or nothing where none was written."""
    page = folder / REPORT
    return page.read_text(encoding="utf-8") if page.exists() else ""


def _headline(folder: Path) -> str:
    """The paragraph under the page's title, as plain text."""
    paragraphs = read_page(folder).split("\n\n")
    return paragraphs[1].replace("**", "").rstrip(".\n") if len(paragraphs) > 1 else ""
