"""Publishing: the `cold_start` and `rl` tables, then the manifest that says how they came to be.

The manifest is written last of these, so a reader that finds it finds everything it names.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from schemas.recipe import Recipe
from umer1_core import __version__
from umer1_core.publishing.funnel import check_totals, funnel
from umer1_core.publishing.ledger import ledger
from umer1_core.publishing.tables import publish_cold_start, publish_rl
from umer1_core.store import content_hash, fingerprint
from umer1_core.template import ANNOTATION_PROMPT_VERSION, CLEAN_VERSION, TRAINING_PROMPT_VERSION
from umer1_core.versions import Version


def publish(version: Version, recipe: Recipe, annotator: str) -> dict[str, Any]:
    """Write both tables and the manifest; returns the manifest. Finished tables are left as they are."""
    store, settings = version.store, recipe.publishing
    sources = content_hash([*store.entries("pairs"), *store.entries("verdicts"), *store.entries("annotations")])
    made_from = fingerprint(sources, settings.model_dump(), TRAINING_PROMPT_VERSION)
    cold_start = publish_cold_start(store, settings.shard_rows, made_from)
    rl = publish_rl(store, settings.rl_pairs, settings.rl_image_sources, recipe.seed, settings.shard_rows, made_from)
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
    )
