"""One process, DDP, FSDP2, DeepSpeed: what a step needs of them."""
