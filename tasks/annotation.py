"""Annotation: the annotator's life around the shards, and one task a shard."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect import get_run_logger, task

from schemas.recipe import Recipe
from tasks.common import TASK_OPTIONS
from tasks.filtering import filter_tokenizer
from umer1_core.annotation.annotator import annotator_fingerprint
from umer1_core.annotation.embedded import embedded_annotator
from umer1_core.annotation.engine import annotate_shard
from umer1_core.annotation.plan import ParentAnnotations, pending_shards
from umer1_core.status import enter_stage
from umer1_core.store import Store, fingerprint
from umer1_core.versions import Version, local_folder

# The embedded server is back within minutes or not at all; others may be waited for longer.
_EMBEDDED_DEADLINE_SECONDS = 300.0
_PATIENCE_SECONDS = 5.0


def shard_fingerprints(recipe: Recipe, version: Version, shards: list[str]) -> dict[str, str]:
    """What each annotation shard depends on: its sides, the annotator and the parent it may take over from."""
    annotator = annotator_fingerprint(recipe.annotation)
    entries = {entry.shard: entry.checksum for entry in version.store.entries("sides")}
    return {shard: fingerprint(entries[shard], annotator, version.number, version.mode) for shard in shards}


@task(name="plan annotation", **TASK_OPTIONS)
def plan(recipe: Recipe, version: Version, shards: list[str]) -> list[str]:
    """The shards that still have sides to ask for; none of them means no annotator is started."""
    enter_stage(version.store, "annotation", annotator="")
    filter_tokenizer(recipe)  # better missed now than after the generations are paid for
    pending = pending_shards(version.store, shard_fingerprints(recipe, version, shards))
    get_run_logger().info("%d of %d shards are annotated already.", len(shards) - len(pending), len(shards))
    return pending


@contextmanager
def annotator(recipe: Recipe, version: Version, pending: list[str]) -> Iterator[list[str]]:
    """The endpoints to ask: the recipe's own, or an embedded server that lives as long as this block."""
    if recipe.annotation.endpoints or not pending:
        yield recipe.annotation.endpoints
        return
    log = local_folder(version.store, "logs") / "annotator.log"
    logger = get_run_logger()

    def say(line: str) -> None:
        logger.info(line)
        enter_stage(version.store, "annotation", annotator=line)

    with embedded_annotator(recipe.annotation, log, say) as endpoints:
        yield endpoints


@task(name="annotate", task_run_name="annotate shard {shard}", **TASK_OPTIONS)
def annotate(shard: str, recipe: Recipe, version: Version, endpoints: list[str]) -> str:
    store, settings = version.store, recipe.annotation
    reused, rounds = _from_parent(recipe, version, shard)
    # The recipe's concurrency is for an endpoint; shards in progress share it.
    limits: dict[str, float] = {"concurrency": max(1, settings.concurrency // recipe.workers)}
    if not settings.endpoints:
        limits["deadline_s"] = min(settings.deadline_s, _EMBEDDED_DEADLINE_SECONDS)
    entry = annotate_shard(
        store,
        shard,
        settings.model_copy(update=limits),
        endpoints,
        local_folder(store, "journal"),
        shard_fingerprints(recipe, version, [shard])[shard],
        reused,
        rounds,
        patience_s=_PATIENCE_SECONDS if settings.endpoints else _EMBEDDED_DEADLINE_SECONDS,
    )
    get_run_logger().info("shard %s: %d sides, %s", shard, entry.rows, entry.metrics)
    return shard


def _from_parent(recipe: Recipe, version: Version, shard: str) -> tuple[dict[str, dict[str, object]], dict[str, int]]:
    if not version.parent:
        return {}, {}
    keys = set(version.store.read_shard("sides", shard, ["side_key"])["side_key"].to_pylist())
    only_kept = version.mode == "reannotate"
    return ParentAnnotations(Store(version.parent), annotator_fingerprint(recipe.annotation), only_kept).for_sides(keys)
