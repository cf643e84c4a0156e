"""Publishing: tables and manifest, then what a person reads: the card and the report."""

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from schemas.recipe import Recipe
from tasks.common import TASK_OPTIONS
from umer1_core.annotation.annotator import annotator_fingerprint
from umer1_core.console import token_line
from umer1_core.publishing.card import write_card
from umer1_core.publishing.publish import publish
from umer1_core.publishing.report import write_report
from umer1_core.reports import report_link
from umer1_core.status import enter_stage
from umer1_core.store import Store
from umer1_core.versions import Version

_RL_WORDS = {  # short: the UI cuts wide tables
    "outside_sft": "outside",
    "taken_outside_sft": "taken outside",
    "short_of": "short",
    "outside_band": "outside band",
}


@task(name="publish", **TASK_OPTIONS)
def publish_tables(recipe: Recipe, version: Version) -> str:
    """The data set's hash."""
    enter_stage(version.store, "publishing")
    manifest = publish(version, recipe, annotator_fingerprint(recipe.annotation))
    write_card(version.store, recipe, manifest)
    get_run_logger().info("data set %s; %s", manifest["data_hash"], _tokens(manifest))
    shared = {table: count for table, count in manifest["shared_shards"].items() if count}
    if shared:
        get_run_logger().info("shards shared with %s: %s", manifest["parent"], shared)
    create_markdown_artifact(key="funnel", description=_headline(manifest["funnel"]), markdown=_funnel(manifest))
    create_markdown_artifact(key="rl", description=_rl_headline(manifest), markdown=_rl_table(manifest))
    return str(manifest["data_hash"])


@task(name="report", **TASK_OPTIONS)
def report(recipe: Recipe, root: str) -> str:
    path = write_report(Store(root), recipe, recipe.seed)
    manifest = Store(root).read_json("manifest.json")
    link = report_link(Store(root), "index.html")
    # Browsers follow no link from a server's page to a file: without a server of reports the path stands as text.
    what = "The funnel, lengths and a gallery of pairs"
    where = f"[{what}]({link})" if link else f"{what}:"
    title = f"# {manifest['name']} v{manifest['version']}"
    create_markdown_artifact(
        key="report",
        description=_headline(manifest["funnel"]),
        markdown=f"{title}\n\n{where}\n\n    {path}\n\nThe card: `{root}/README.md`\n",
    )
    return path


def _headline(funnel: list[dict]) -> str:
    pairs, kept = sum(row["pairs"] for row in funnel), sum(row["kept"] for row in funnel)
    return f"{kept:,}/{pairs:,} pairs kept ({kept / max(1, pairs):.0%})"


def _funnel(manifest: dict) -> str:
    lines = [
        f"# {manifest['name']} v{manifest['version']}: {_headline(manifest['funnel'])}",
        "",
        "| source | rows read | not drawn | rejected | pairs | kept | cold start | RL | dropped for |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in manifest["funnel"]:
        counts = [row["read"], row["not_drawn"], sum(row["rejected"].values()), row["pairs"], row["kept"]]
        counts += [row["cold_start"], row["rl"]]
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(row["dropped"].items()))
        lines.append(f"| {row['source']} | {' | '.join(f'{count:,}' for count in counts)} | {reasons} |")
    return "\n".join([*lines, "", _tokens(manifest)])


def _rl_headline(manifest: dict) -> str:
    taken = sum(row["taken"] for row in manifest["rl_table"])
    outside = sum(row["taken_outside_sft"] for row in manifest["rl_table"])
    return f"{taken:,} RL pairs in blocks of {manifest['rl_block']}, {outside:,} outside the cold start"


def _rl_table(manifest: dict) -> str:
    """What was asked of each source and what it gave, with all columns that say something."""
    columns = [
        "asked",
        "available",
        "outside_sft",
        "taken",
        "taken_outside_sft",
        "short_of",
        "unranked",
        "outside_band",
    ]
    shown = [name for name in columns if name in columns[:6] or any(row[name] for row in manifest["rl_table"])]
    lines = [
        f"# {manifest['name']} v{manifest['version']}: {_rl_headline(manifest)}",
        "",
        f"| source | modality | {' | '.join(_RL_WORDS.get(name, name) for name in shown)} |",
        f"|---|---|{'---:|' * len(shown)}",
    ]
    for row in manifest["rl_table"]:
        counts = " | ".join(f"{row[name]:,}" for name in shown)
        lines.append(f"| {row['source']} | {row['modality']} | {counts} |")
    return "\n".join(lines)


def _tokens(manifest: dict) -> str:
    return f"{manifest['ledger']['completion_tokens']:,} tokens generated: {token_line(manifest['ledger'])}"
