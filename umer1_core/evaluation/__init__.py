"""hit@1 of both embeddings on held-out pairs (UME-R1 section 4)."""
