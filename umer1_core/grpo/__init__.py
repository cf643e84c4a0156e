"""Stage 2: GRPO with an embedding reward (UME-R1 section 3.3)."""
