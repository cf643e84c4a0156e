"""Annotation: the annotator's and the engine's life around the shards, and one task a shard."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prefect import get_run_logger, task

from schemas.recipe import Annotation, Recipe
from tasks.common import TASK_OPTIONS
from tasks.filtering import filter_tokenizer
from umer1_core.annotation.annotator import annotator_fingerprint
from umer1_core.annotation.embedded import embedded_annotator
from umer1_core.annotation.engine import annotate_shard, open_engine
from umer1_core.annotation.ledger import LIVE_FILE
from umer1_core.annotation.plan import ParentAnnotations, open_parent, pending_shards
from umer1_core.annotation.preflight import probe_sides
from umer1_core.status import enter_stage
from umer1_core.store import fingerprint
from umer1_core.versions import Version, local_folder, parents_of

# The embedded server is back within minutes or not at all; others may be waited for longer.
_EMBEDDED_DEADLINE_SECONDS = 300.0
_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The sides shards that still have to be annotated, and the fingerprint of each."""

    shards: dict[str, str]
    annotator: str


@task(name="plan annotation", **TASK_OPTIONS)
def plan(recipe: Recipe, version: Version) -> Plan:
    """What there still is to ask for; nothing means that no annotator is started."""
    enter_stage(version.store, "annotation", annotator="")
    filter_tokenizer(recipe)  # better missed now than after the generations are paid for
    annotator = annotator_fingerprint(recipe.annotation)
    samples, sides = recipe.annotation.samples, version.store.entries("sides")
    depends = (annotator, samples, version.number, version.mode, version.reason)
    fingerprints = {entry.shard: fingerprint(entry.checksum, *depends) for entry in sides}
    pending = pending_shards(version.store, fingerprints)
    get_run_logger().info("%d of %d shards are annotated already.", len(sides) - len(pending), len(sides))
    return Plan({shard: fingerprints[shard] for shard in pending}, annotator)


@contextmanager
def annotator(recipe: Recipe, version: Version, todo: Plan) -> Iterator[list[str]]:
    """The endpoints to ask, examined: the recipe's own, or an embedded server that lives as long as this block.

    Raises Fatal when one of them is the wrong server for the recipe, before any side is sent.
    """
    if not todo.shards:
        yield []
        return
    logger = get_run_logger()

    def say(line: str) -> None:
        logger.info(line)
        enter_stage(version.store, "annotation", annotator=line)

    with _endpoints(recipe, version, say) as endpoints:
        probes = probe_sides(version.store.read_shard("sides", next(iter(todo.shards))).to_pylist())
        live = local_folder(version.store, "journal") / LIVE_FILE
        patience = _patience(recipe.annotation)
        with open_engine(engine_settings(recipe), endpoints, live, patience, probes, logger.info):
            yield endpoints


@task(name="annotate", task_run_name="annotate shard {shard}", **TASK_OPTIONS)
def annotate(shard: str, recipe: Recipe, version: Version, endpoints: list[str], todo: Plan) -> str:
    entry = annotate_shard(
        version.store,
        shard,
        engine_settings(recipe),
        endpoints,
        local_folder(version.store, "journal"),
        todo.shards[shard],
        _parent(recipe, version, todo.annotator),
        _patience(recipe.annotation),
    )
    get_run_logger().info("shard %s: %d annotations, %s", shard, entry.rows, entry.metrics)
    return shard


def engine_settings(recipe: Recipe) -> Annotation:
    """The recipe's, as one process's engine takes them. Equal settings share an engine."""
    settings = recipe.annotation
    changes: dict[str, float] = {}
    if recipe.runner == "ray":  # every worker has an engine; together they hold to the recipe's limit
        changes["concurrency"] = max(1, settings.concurrency // recipe.workers)
        changes["video_concurrency"] = max(1, settings.video_concurrency // recipe.workers)
    if _is_embedded(settings):
        changes["deadline_s"] = min(settings.deadline_s, _EMBEDDED_DEADLINE_SECONDS)
    return settings.model_copy(update=changes)


def _is_embedded(settings: Annotation) -> bool:
    return not (settings.endpoints or settings.endpoints_file)


def _patience(settings: Annotation) -> float:
    return _EMBEDDED_DEADLINE_SECONDS if _is_embedded(settings) else _PATIENCE_SECONDS


@contextmanager
def _endpoints(recipe: Recipe, version: Version, say: Callable[[str], None]) -> Iterator[list[str]]:
    if not _is_embedded(recipe.annotation):
        yield recipe.annotation.endpoints
        return
    log = local_folder(version.store, "logs") / "annotator.log"
    roots = [os.path.abspath(source.root) for source in recipe.sources if "://" not in source.root]
    media_root = os.path.commonpath(roots) if roots else ""
    with embedded_annotator(recipe.annotation, log, say, media_root) as endpoints:
        yield endpoints


def _parent(recipe: Recipe, version: Version, annotator: str) -> ParentAnnotations | None:
    roots = parents_of(version, recipe)
    return open_parent(roots, annotator, version.mode == "reannotate", version.reason) if roots else None
