"""Sampling: one task a source, then the distinct sides."""

from prefect import get_run_logger, task

from schemas.recipe import Recipe
from tasks.common import TASK_OPTIONS
from umer1_core.sampling.sample import (
    SourceSpec,
    index_sides,
    list_sources,
    sample_source,
    source_fingerprint,
)
from umer1_core.sampling.sides import SIDES_ORDER
from umer1_core.status import enter_stage
from umer1_core.store import Store, content_hash, fingerprint


@task(name="find sources", **TASK_OPTIONS)
def find_sources(recipe: Recipe, root: str) -> list[SourceSpec]:
    specs = list_sources(recipe.sources)
    enter_stage(Store(root), "sampling", sources=len(specs), training=recipe.training.enabled, grpo=recipe.grpo.enabled)
    return specs


@task(name="sample", task_run_name="sample {spec.name}", **TASK_OPTIONS)
def sample(spec: SourceSpec, recipe: Recipe, root: str) -> str:
    made_from = source_fingerprint(spec, recipe.seed, recipe.media)
    entries = sample_source(spec, recipe.seed, Store(root), fingerprint=made_from, rules=recipe.media)
    metrics = entries[-1].metrics
    get_run_logger().info(
        "%s: %d rows read, %d pairs, rejected %s", spec.name, metrics["read"], metrics["pairs"], metrics["rejected"]
    )
    return spec.name


@task(name="index sides", **TASK_OPTIONS)
def index(recipe: Recipe, root: str) -> list[str]:
    """The shards of the distinct sides."""
    store = Store(root)
    made_from = fingerprint(
        content_hash(store.entries("pairs")), recipe.annotation.shard_rows, recipe.seed, SIDES_ORDER
    )
    return [e.shard for e in index_sides(store, recipe.annotation.shard_rows, recipe.seed, made_from)]
