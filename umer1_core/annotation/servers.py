"""The servers of a recipe, ready to be asked: its own endpoints, or an embedded one that lives as long as a block."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from schemas.recipe import Annotation, Recipe
from umer1_core.annotation.embedded import embedded_annotator

# The embedded server is back within minutes or not at all; others may be waited for longer.
_EMBEDDED_SECONDS = 300.0
_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Servers:
    """What an engine is opened with. `annotation`: the recipe's settings as one process takes them."""

    annotation: Annotation
    endpoints: list[str]
    patience_s: float
    embedded: bool


@contextmanager
def open_servers(recipe: Recipe, log: Path, say: Callable[[str], None]) -> Iterator[Servers]:
    """Raises Fatal, with the end of the log, when the embedded server does not come up."""
    settings = recipe.annotation
    if settings.endpoints or settings.endpoints_file:
        yield Servers(_shared(recipe), settings.endpoints, _PATIENCE_SECONDS, embedded=False)
        return
    impatient = settings.model_copy(update={"deadline_s": min(settings.deadline_s, _EMBEDDED_SECONDS)})
    with embedded_annotator(settings, log, say, _media_root(recipe)) as endpoints:
        yield Servers(impatient, endpoints, _EMBEDDED_SECONDS, embedded=True)


def _shared(recipe: Recipe) -> Annotation:
    """On Ray every worker has an engine of its own; together they hold to the recipe's limit."""
    settings, workers = recipe.annotation, recipe.workers if recipe.runner == "ray" else 1
    limits = {
        "concurrency": max(1, settings.concurrency // workers),
        "video_concurrency": max(1, settings.video_concurrency // workers),
    }
    return settings.model_copy(update=limits)


def _media_root(recipe: Recipe) -> str:
    """The folder above all sources of this machine: vLLM may be allowed one, and it must exist."""
    roots = [os.path.abspath(source.root) for source in recipe.sources if "://" not in source.root]
    return os.path.commonpath(roots) if roots else ""
