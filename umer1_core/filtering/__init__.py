"""Filtering: what UME-R1 section 2 rejects, and what it lets pass; one rule a file, every reason and score kept."""

from umer1_core.filtering.filter import filter_shard
from umer1_core.filtering.scores import scores_fingerprint
from umer1_core.filtering.tokens import load_tokenizer, tokenizer_identity

__all__ = ["filter_shard", "load_tokenizer", "scores_fingerprint", "tokenizer_identity"]
