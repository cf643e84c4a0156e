"""What happens before the line: the miniature's world, and the version a run works on."""

from pathlib import Path

from prefect import get_run_logger, task

from schemas.recipe import MiniatureWorld, Recipe
from tasks.common import TASK_OPTIONS
from umer1_core.annotation.annotator import annotator_fingerprint
from umer1_core.annotation.plan import needs_reannotation
from umer1_core.miniature.prepare import ensure_world
from umer1_core.versions import Mode, Version, newest, open_build, open_reannotation


@task(name="write the miniature world", **TASK_OPTIONS)
def write_miniature_world(world: MiniatureWorld) -> None:
    ensure_world(Path(world.root), world.pairs, world.held_out, world.seed)


@task(name="open version", **TASK_OPTIONS)
def open_version(recipe: Recipe, mode: Mode) -> Version:
    annotator = annotator_fingerprint(recipe.annotation)
    version = open_build(recipe, annotator) if mode == "build" else open_reannotation(recipe, annotator)
    swept = version.store.sweep()
    get_run_logger().info(
        "Version %d of %s%s%s",
        version.number,
        recipe.output,
        f", parent {version.parent}" if version.parent else "",
        f"; {swept} temporary files of a killed run removed" if swept else "",
    )
    return version


@task(name="look for sides to re-annotate", **TASK_OPTIONS)
def something_to_reannotate(recipe: Recipe) -> bool:
    """Whether the newest version has rejected, failed or outdated sides, or is an unfinished re-annotation."""
    last = newest(recipe.output)
    if last is None or not last.store.exists("manifest.json"):
        return True
    return needs_reannotation(last.store, annotator_fingerprint(recipe.annotation))
