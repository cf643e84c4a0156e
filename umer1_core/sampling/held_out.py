"""Held-out pairs: sampled like training pairs, into tables of their own."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.recipe import MediaRules, Source
from umer1_core.sampling.sample import list_sources, sample_source
from umer1_core.store import Store, fingerprint


def sample_held_out(sources: Sequence[Source], seed: int, store: Store, rules: MediaRules = MediaRules()) -> Store:
    """Sample every source into `store`; what is there already stays."""
    for spec in list_sources(sources):
        made_from = fingerprint(repr(spec), seed, rules.model_dump())
        sample_source(spec, seed, store, fingerprint=made_from, rules=rules)
    return store
