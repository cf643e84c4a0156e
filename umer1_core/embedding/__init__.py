"""Embeddings of queries and targets by a trained student."""
