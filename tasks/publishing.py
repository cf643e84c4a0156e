"""Publishing: tables and manifest, then what a person reads: the card and the report."""

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from schemas.recipe import Recipe
from tasks.common import TASK_OPTIONS
from umer1_core.annotation.annotator import annotator_fingerprint
from umer1_core.publishing.card import write_card
from umer1_core.publishing.publish import publish
from umer1_core.publishing.report import write_report
from umer1_core.publishing.summary import (
    funnel_headline,
    funnel_markdown,
    report_markdown,
    rl_headline,
    rl_markdown,
    tokens,
)
from umer1_core.reports import report_link
from umer1_core.status import enter_stage
from umer1_core.store import Store
from umer1_core.versions import Version


@task(name="publish", **TASK_OPTIONS)
def publish_tables(recipe: Recipe, version: Version) -> str:
    """The data set's hash."""
    enter_stage(version.store, "publishing")
    manifest = publish(version, recipe, annotator_fingerprint(recipe.annotation))
    write_card(version.store, recipe, manifest)
    get_run_logger().info("data set %s; %s", manifest["data_hash"], tokens(manifest))
    shared = {table: count for table, count in manifest["shared_shards"].items() if count}
    if shared:
        get_run_logger().info("shards shared with %s: %s", manifest["parent"], shared)
    create_markdown_artifact(key="funnel", description=funnel_headline(manifest), markdown=funnel_markdown(manifest))
    create_markdown_artifact(key="rl", description=rl_headline(manifest), markdown=rl_markdown(manifest))
    return str(manifest["data_hash"])


@task(name="report", **TASK_OPTIONS)
def report(recipe: Recipe, root: str) -> str:
    store = Store(root)
    path = write_report(store, recipe, recipe.seed)
    manifest = store.read_json("manifest.json")
    page = report_markdown(manifest, path, root, report_link(store, "index.html"))
    create_markdown_artifact(key="report", description=funnel_headline(manifest), markdown=page)
    return path
