"""What both stages of training share: processes, checkpoints, batches, packs, what is watched."""
