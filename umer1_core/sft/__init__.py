"""Stage 1: supervised fine-tuning on pairs with reasoning (UME-R1 section 3.3)."""
