"""Held-out pairs: sampled like training pairs, into tables of their own beside the data set."""

from __future__ import annotations

from schemas.recipe import Recipe
from umer1_core.sampling.sample import list_sources, sample_source, source_fingerprint
from umer1_core.store import Store


def held_out_tables(recipe: Recipe, root: str) -> Store:
    """The tables of the evaluation's pairs, sampled where they are not yet; empty where the recipe names none."""
    store = Store(f"{root}/held_out")
    for spec in list_sources(recipe.evaluation.sources):
        made_from = source_fingerprint(spec, recipe.seed, recipe.media)
        sample_source(spec, recipe.seed, store, fingerprint=made_from, rules=recipe.media)
    return store
