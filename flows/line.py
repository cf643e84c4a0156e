"""The line of rooms that both data deployments walk: sampling, annotation, filtering, publishing, validation."""

from prefect import get_run_logger
from prefect.futures import PrefectFuture, wait

from schemas.recipe import Recipe
from tasks.annotation import annotate, annotator, plan
from tasks.common import shard_runner
from tasks.filtering import judge
from tasks.progress import progress_board
from tasks.publishing import publish_tables, report
from tasks.sampling import find_sources, index, sample
from tasks.validation import check, start_training
from umer1_core.versions import Version, exclusive


def build_version(recipe: Recipe, version: Version) -> str:
    """Bring a version to the end of the line; returns its root. Every step is skipped where it is already done."""
    root = version.root
    with exclusive(root, "build", get_run_logger().info), progress_board(root), shard_runner(recipe) as shards:
        specs = find_sources(recipe, root)
        all_done([shards.submit(sample, {"spec": spec, "recipe": recipe, "root": root}) for spec in specs])
        sides = index(recipe, root)

        todo = plan(recipe, version)
        with annotator(recipe, version, todo) as servers:
            common = {"recipe": recipe, "version": version, "servers": servers, "todo": todo}
            all_done([shards.submit(annotate, {"shard": shard, **common}) for shard in todo.shards])

        all_done([shards.submit(judge, {"shard": shard, "recipe": recipe, "root": root}) for shard in sides])
        data_hash = publish_tables(recipe, version)
        report(recipe, root)
        check(recipe, root, data_hash)
    if recipe.training.enabled:
        start_training(root, data_hash)
    return root


def all_done(futures: list[PrefectFuture]) -> None:
    """Wait for all shards, so that a failed one costs no other its work; then raise the first failure."""
    wait(futures)
    for future in futures:
        future.result()
