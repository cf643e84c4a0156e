"""README.md of a data set: a Hugging Face data set card, so that `load_dataset(folder, "cold_start")` works as it lies.

Guarantees: every number comes from the manifest; no secret is written, so addresses lose user names, passwords and
query strings. The card is Markdown for people: text that could break a table is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pyarrow as pa
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from schemas.recipe import Recipe
from schemas.tables import MEDIA, SIDE, TABLES
from umer1_core.console import token_line
from umer1_core.errors import safe_url
from umer1_core.publishing.licences import licence_notes
from umer1_core.store import Store
from umer1_core.text import markdown_text

CARD = "README.md"
_WHAT = {
    "cold_start": "Trainer-ready pairs. Media stand before the prompt; the response is the assistant's turn.",
    "rl": "Pairs for reinforcement learning, without responses. `origin`: `rejected` by the filters, or `cold_start`.",
    "pairs": "What was drawn from the sources.",
    "sides": "The distinct sides of all pairs; `uses` counts the sides of pairs that each one serves.",
    "annotations": "What the annotator wrote, as it wrote it; a side with several samples has a row for each.",
    "attempts": "Every request that was answered, with its outcome; completions that were discarded stand here.",
    "verdicts": "Every annotation's parts, scores and all reasons against it.",
    "rejections": "Rows of the sources that never became a pair, each with its reason.",
}


def write_card(store: Store, recipe: Recipe, manifest: dict[str, Any]) -> None:
    """Write README.md from the manifest that `publish` returned."""
    store.write_bytes(CARD, render_card(recipe, manifest, store.root).encode())


def render_card(
    recipe: Recipe,
    manifest: dict[str, Any],
    path: str,
    schemas: Mapping[str, pa.Schema] = TABLES,
    exported: Literal["", "referenced", "embedded"] = "",
) -> str:
    """The card of a data set, or of an export of it, whose media are referred to or embedded.

    path: what `load_dataset` is given. schemas: of the tables that the manifest lists.
    """
    environment = Environment(
        loader=PackageLoader("umer1_core.publishing"),
        autoescape=False,  # Markdown: what comes from the sources goes through the filter `cell`
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"n": _number, "cell": markdown_text, "plain": _plain}
    rows = {name: sum(entry["rows"] for entry in manifest["tables"].get(name, [])) for name in _WHAT}
    tables = [name for name in _WHAT if rows[name]]
    return environment.get_template("card.md.jinja").render(
        front_matter=front_matter(recipe, manifest["tables"], tables, rows["cold_start"]),
        name=recipe.name,
        version=manifest.get("version", ""),
        miniature=recipe.miniature is not None,
        path=safe_url(path),
        tables=tables,
        counts=rows,
        pairs={table: sum(row[table] for row in manifest["funnel"]) for table in ("cold_start", "rl")},
        exported=exported,
        annotator=safe_url(recipe.annotation.model),
        fingerprint=(manifest.get("annotator") or {}).get("fingerprint", ""),
        endpoints=[safe_url(endpoint) for endpoint in recipe.annotation.endpoints],
        prompts=manifest["prompt_versions"],
        completion=recipe.annotation.completion,
        samples=recipe.annotation.samples,
        filters=recipe.filters,
        sources=recipe.sources,
        seed=recipe.seed,
        data_hash=manifest["data_hash"],
        code_version=manifest["code_version"],
        schema_version=manifest["schema_version"],
        funnel=manifest["funnel"],
        rejected=sum(sum(row["rejected"].values()) for row in manifest["funnel"]),
        rl_table=manifest.get("rl_table", []),
        rl_block=manifest.get("rl_block", 1),
        ranked=bool(recipe.publishing.rl_ranks),
        rank_band=recipe.publishing.rl_rank_band,
        licences=licence_notes([row["source"] for row in manifest["funnel"] if row["pairs"]]),
        ledger=manifest["ledger"],
        tokens=token_line(manifest["ledger"]),
        columns=[{"name": name, "what": _WHAT[name], "columns": columns(schemas[name])} for name in tables],
    )


def front_matter(recipe: Recipe, entries: dict[str, list[dict[str, Any]]], tables: list[str], pairs: int) -> str:
    """The YAML that Hugging Face reads: one configuration per table that has rows."""
    configs: list[dict[str, Any]] = [
        {"config_name": table, "data_files": [{"split": "train", "path": data_files(table, entries[table])}]}
        for table in tables
    ]
    if configs:
        configs[0]["default"] = True
    record = {
        "pretty_name": recipe.name + (" (miniature)" if recipe.miniature else ""),
        "task_categories": ["feature-extraction"],
        "tags": ["multimodal", "embedding", "reasoning", "ume-r1", *(["miniature"] if recipe.miniature else [])],
        "size_categories": [_size_category(pairs)],
        "configs": configs,
    }
    return yaml.safe_dump(record, sort_keys=False, allow_unicode=True)


def data_files(table: str, entries: list[dict[str, Any]]) -> str | list[str]:
    """All files by pattern; by name where some are empty, since `datasets` stops at a Parquet file without rows."""
    filled = [f"{table}/{entry['shard']}.parquet" for entry in entries if entry["rows"]]
    return f"{table}/*.parquet" if len(filled) == len(entries) else filled


def columns(schema: pa.Schema) -> list[tuple[str, str]]:
    """Names and types, the nested ones by their own names."""
    named = {str(SIDE): "side: text, media", str(pa.list_(SIDE)): "list of sides", str(pa.list_(MEDIA)): "media"}
    return [(field.name, named.get(str(field.type), str(field.type))) for field in schema]


def _size_category(rows: int) -> str:
    limits = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for limit, name in limits if rows < limit), "1M<n<10M")


def _number(value: int) -> str:
    return f"{value:,}"


def _plain(value: float) -> str:
    return f"{value:g}"
