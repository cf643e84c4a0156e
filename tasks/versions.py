"""What happens before the line: the miniature's world, and the version a run works on."""

from pathlib import Path

from prefect import get_run_logger, task

from schemas.recipe import MiniatureWorld, Recipe
from tasks.common import TASK_OPTIONS
from umer1_core.annotation.annotator import annotator_fingerprint
from umer1_core.annotation.dead_letters import dead_letters
from umer1_core.annotation.plan import needs_reannotation
from umer1_core.miniature.prepare import ensure_world
from umer1_core.versions import Mode, Version, is_finished, newest, open_build, open_reannotation, open_redrive


@task(name="write the miniature world", **TASK_OPTIONS)
def write_miniature_world(world: MiniatureWorld) -> None:
    ensure_world(Path(world.root), world.pairs, world.held_out, world.seed)


@task(name="open version", **TASK_OPTIONS)
def open_version(recipe: Recipe, mode: Mode, reason: str = "") -> Version:
    """reason: a redrive's, where it is restricted to one."""
    version = _open(recipe, mode, reason)
    swept = version.store.sweep()
    get_run_logger().info(
        "Version %d of %s%s%s",
        version.number,
        recipe.output,
        f", parent {version.parent}" if version.parent else "",
        f"; {swept} temporary files of a killed run removed" if swept else "",
    )
    return version


def _open(recipe: Recipe, mode: Mode, reason: str) -> Version:
    annotator = annotator_fingerprint(recipe.annotation)
    if mode == "redrive":
        return open_redrive(recipe, annotator, reason)
    return open_build(recipe, annotator) if mode == "build" else open_reannotation(recipe, annotator)


@task(name="look for sides to ask again", **TASK_OPTIONS)
def something_to_ask_again(recipe: Recipe, mode: Mode, reason: str = "") -> bool:
    """Whether the newest version is unfinished, or holds sides that a re-annotation or a redrive asks again."""
    last = newest(recipe.output)
    if last is None or not is_finished(last):
        return True
    if mode == "redrive":
        return bool(dead_letters(last.store, reason, examples=0))
    return needs_reannotation(last.store, annotator_fingerprint(recipe.annotation))
