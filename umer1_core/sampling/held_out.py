"""Held-out pairs: sampled like training pairs, into tables of their own."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.recipe import Source
from umer1_core.sampling.sample import list_sources, sample_source
from umer1_core.store import Store, fingerprint


def sample_held_out(sources: Sequence[Source], seed: int, store: Store) -> Store:
    """Sample every source into `store`; what is there already stays."""
    for spec in list_sources(sources):
        sample_source(spec, seed, store, fingerprint=fingerprint(repr(spec), seed))
    return store
