"""Sampling: data sets as they lie, upstream's and your own, drawn by seed, as pairs with their media checked."""

from umer1_core.sampling.rows import SourceSpec
from umer1_core.sampling.sample import list_sources, sample_source
from umer1_core.sampling.sides import index_sides

__all__ = ["SourceSpec", "index_sides", "list_sources", "sample_source"]
