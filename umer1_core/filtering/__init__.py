"""Filtering: what UME-R1 section 2 rejects, one rule a file, every reason and score kept."""

from umer1_core.filtering.filter import filter_shard, load_tokenizer

__all__ = ["filter_shard", "load_tokenizer"]
