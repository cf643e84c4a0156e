"""Annotation: the annotator's and the engine's life around the shards, and one task a shard."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prefect import get_run_logger, task

from schemas.recipe import Recipe
from tasks.common import TASK_OPTIONS
from tasks.filtering import filter_tokenizer
from umer1_core.annotation.annotator import annotator_fingerprint
from umer1_core.annotation.engine import annotate_shard, open_engine
from umer1_core.annotation.inheritance import inherit_shards
from umer1_core.annotation.ledger import LIVE_FILE
from umer1_core.annotation.plan import ParentAnnotations, open_parent, pending_shards
from umer1_core.annotation.preflight import probe_sides
from umer1_core.annotation.servers import Servers, open_servers
from umer1_core.status import enter_stage
from umer1_core.store import fingerprint
from umer1_core.versions import Version, local_folder, parents_of


@dataclass(frozen=True, slots=True)
class Plan:
    """The sides shards that still have to be annotated, and the fingerprint of each.

    asks: whether a server is needed for them; not where every answer is taken over.
    """

    shards: dict[str, str]
    annotator: str
    asks: bool


@task(name="plan annotation", **TASK_OPTIONS)
def plan(recipe: Recipe, version: Version) -> Plan:
    """What there still is to ask for; nothing means that no annotator is started."""
    enter_stage(version.store, "annotation", annotator="")
    filter_tokenizer(recipe)  # better missed now than after the generations are paid for
    annotator = annotator_fingerprint(recipe.annotation)
    samples, sides = recipe.annotation.samples, version.store.entries("sides")
    depends = (annotator, samples, version.number, version.mode, version.reason)
    fingerprints = {entry.shard: fingerprint(entry.checksum, *depends) for entry in sides}
    missing = {shard: fingerprints[shard] for shard in pending_shards(version.store, fingerprints)}
    pending = inherit_shards(version.store, missing, annotator, samples, version.mode == "reannotate", version.reason)
    get_run_logger().info(
        "%d of %d shards are annotated already, %d of these in the version before.",
        len(sides) - len(pending),
        len(sides),
        len(missing) - len(pending),
    )
    parent = _parent(recipe, version, annotator) if pending else None
    columns = ["side_key", "uses"]
    asks = any(not (parent and parent.covers(version.store.read_shard("sides", s, columns), samples)) for s in pending)
    return Plan({shard: missing[shard] for shard in pending}, annotator, asks)


@contextmanager
def annotator(recipe: Recipe, version: Version, todo: Plan) -> Iterator[Servers | None]:
    """The servers to ask, examined; none where there is nothing to ask.

    Raises Fatal when one of them is the wrong server for the recipe, before any side is sent.
    """
    if not todo.asks:
        yield None
        return
    logger = get_run_logger()

    def say(line: str) -> None:
        logger.info(line)
        enter_stage(version.store, "annotation", annotator=line)

    with open_servers(recipe, local_folder(version.store, "logs") / "annotator.log", say) as servers:
        probes = probe_sides(version.store.read_shard("sides", next(iter(todo.shards))).to_pylist())
        live = local_folder(version.store, "journal") / LIVE_FILE
        # Held open over all shards, so that the end of one is no pause for the servers.
        with open_engine(servers.annotation, servers.endpoints, live, servers.patience_s, probes, logger.info):
            yield servers


@task(name="annotate", task_run_name="annotate shard {shard}", **TASK_OPTIONS)
def annotate(shard: str, recipe: Recipe, version: Version, servers: Servers | None, todo: Plan) -> str:
    entry = annotate_shard(
        version.store,
        shard,
        servers.annotation if servers else recipe.annotation,
        servers.endpoints if servers else [],
        local_folder(version.store, "journal"),
        todo.shards[shard],
        _parent(recipe, version, todo.annotator),
        servers.patience_s if servers else 0.0,
    )
    get_run_logger().info("shard %s: %d annotations, %s", shard, entry.rows, entry.metrics)
    return shard


def _parent(recipe: Recipe, version: Version, annotator: str) -> ParentAnnotations | None:
    roots = parents_of(version, recipe)
    return open_parent(roots, annotator, version.mode == "reannotate", version.reason) if roots else None
