"""The pilot: about `rows` sides of a recipe, spread over its sources, sampled, annotated and filtered.

Guarantees: everything lies in a folder of its own, `<output>/pilot`, made anew each time; no version of the data set is
touched. The time measured is that of annotation alone, after the servers were started and examined.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from schemas.recipe import Recipe
from umer1_core.annotation.endpoints import read_endpoints
from umer1_core.annotation.engine import annotate_shard, open_engine
from umer1_core.annotation.journal import count_records
from umer1_core.annotation.ledger import LIVE_FILE
from umer1_core.annotation.preflight import probe_sides
from umer1_core.annotation.servers import open_servers
from umer1_core.errors import SourceError
from umer1_core.filtering import filter_shard, load_tokenizer
from umer1_core.miniature.prepare import ensure_world
from umer1_core.pilot.report import Measured, make_report
from umer1_core.recipes import locate_model
from umer1_core.sampling import index_sides, list_sources, sample_source
from umer1_core.sampling.survey import Survey, survey_source
from umer1_core.store import Store
from umer1_core.versions import exclusive, local_folder

Show = Callable[[str, int, int], None]
Say = Callable[[str], None]
_WATCH_SECONDS = 0.25


def run_pilot(recipe: Recipe, rows: int, gpus: int, show: Show, say: Say) -> dict[str, Any]:
    """Annotate about `rows` sides; the report, which is also written as `report.json` in the pilot's folder.

    gpus: behind the endpoints; 0 means one each. show: what is done, how much of it, and of how much (0: not known).
    """
    if recipe.miniature:
        world = recipe.miniature
        show("writing the miniature world", 0, 0)
        ensure_world(Path(world.root), world.pairs, world.held_out, world.seed)
    tokenizer = load_tokenizer(locate_model(recipe.filters.tokenizer or recipe.annotation.model))
    with exclusive(recipe.output, "pilot"):
        folder = pilot_folder(recipe)
        shutil.rmtree(folder, ignore_errors=True)
        store = Store(str(folder))
        surveys = _sample(recipe, rows, store, show)
        measured = _annotate(recipe, store, gpus, show, say)
        show("filtering", 0, 0)
        filter_shard(store, "00000", recipe.filters, tokenizer)
        report = make_report(recipe, store, surveys, measured)
        store.write_json("report.json", report)
    return report


def pilot_folder(recipe: Recipe) -> Path:
    return local_folder(Store(recipe.output), "pilot")


def _sample(recipe: Recipe, rows: int, store: Store, show: Show) -> list[Survey]:
    specs = list_sources(recipe.sources)
    each = max(1, round(rows / 2 / len(specs)))
    surveys = []
    for number, spec in enumerate(specs):
        show(f"sampling {spec.name}", number, len(specs))
        surveys.append(survey_source(spec, recipe.seed))
        sample_source(replace(spec, limit=min(each, spec.limit)), recipe.seed, store, rules=recipe.media)
    entries = index_sides(store, 2 * each * len(specs), recipe.seed)
    if not sum(entry.rows for entry in entries):
        raise SourceError("No pair could be drawn from any source.", f"See the reasons in {store.at('rejections')}.")
    return surveys


def _annotate(recipe: Recipe, store: Store, gpus: int, show: Show, say: Say) -> Measured:
    sides = store.read_shard("sides", "00000").to_pylist()
    journals = Path(store.path) / "journal"
    show("starting the annotator", 0, 0)
    with open_servers(recipe, Path(store.path) / "logs" / "annotator.log", say) as servers:
        show("examining the annotator", 0, 0)
        annotation, endpoints = servers.annotation, servers.endpoints
        count = len(read_endpoints(annotation, endpoints))
        with (
            open_engine(annotation, endpoints, journals / LIVE_FILE, servers.patience_s, probe_sides(sides), say),
            _watched(journals / "00000.jsonl", len(sides), show),
        ):
            started = time.monotonic()
            annotate_shard(store, "00000", annotation, endpoints, journals, "", patience_s=servers.patience_s)
            seconds = time.monotonic() - started
    room = annotation.embedded.max_num_seqs if servers.embedded else annotation.concurrency * count
    return Measured(seconds, count, gpus or count, min(room, annotation.concurrency * count), servers.embedded)


@contextmanager
def _watched(journal: Path, total: int, show: Show) -> Iterator[None]:
    """Shows how many sides are settled while the block runs."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_WATCH_SECONDS):
            show("annotating", count_records(journal), total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
