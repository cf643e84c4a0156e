"""Publishing: the `cold_start` and `rl` tables, then the manifest that says how they came to be.

The manifest is written last of these, so a reader that finds it finds everything it names.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from schemas.recipe import Recipe
from schemas.tables import TABLES
from umer1_core import __version__
from umer1_core.publishing.funnel import check_totals, funnel
from umer1_core.publishing.ledger import ledger
from umer1_core.publishing.rl import publish_rl
from umer1_core.publishing.tables import publish_cold_start
from umer1_core.store import Store, content_hash, fingerprint
from umer1_core.template import ANNOTATION_PROMPT_VERSION, CLEAN_VERSION, TRAINING_PROMPT_VERSION
from umer1_core.versions import Version


def publish(version: Version, recipe: Recipe, annotator: str) -> dict[str, Any]:
    """Write both tables and the manifest; returns the manifest. Finished tables are left as they are.

    Shards that the parent version has with the same rows are shared with it.
    """
    store, settings = version.store, recipe.publishing
    parent = _finished_parent(version)
    sources = content_hash([*store.entries("pairs"), *store.entries("verdicts"), *store.entries("annotations")])
    made_with = fingerprint(sources, settings.model_dump(), TRAINING_PROMPT_VERSION)
    cold_start = publish_cold_start(store, settings.shard_rows, made_with, parent)
    rl = publish_rl(store, settings, recipe.seed, made_with, parent)
    rows = funnel(store)
    return store.collect_manifest(
        name=recipe.name,
        version=version.number,
        parent=version.parent,
        mode=version.mode,
        created=version.created,
        data_hash=content_hash([*cold_start, *rl]),
        recipe=recipe.dump(),
        annotator={"model": recipe.annotation.model, "fingerprint": annotator},
        code_version=__version__,
        prompt_versions={
            "annotation": ANNOTATION_PROMPT_VERSION,
            "training": TRAINING_PROMPT_VERSION,
            "clean": CLEAN_VERSION,
        },
        funnel=[asdict(row) for row in rows],
        ledger=ledger(store),
        broken_totals=check_totals(rows),
        rl_table=rl[0].metrics["rl_table"],
        rl_block=rl[0].metrics["block"],
        shared_shards={table: sum(bool(e.shared_with) for e in store.entries(table)) for table in TABLES},
    )


def _finished_parent(version: Version) -> Store | None:
    parent = Store(version.parent) if version.parent else None
    return parent if parent and parent.exists("manifest.json") else None
