"""A training of a few steps on twelve pairs."""

from schemas.training import Training

SHORT = Training(
    model="miniature",
    steps=8,
    batch_pairs=6,
    block_pairs=3,
    pack_tokens=256,
    max_tokens=256,
    learning_rate=3e-3,
    optimizer="muon",
    warmup_steps=2,
    temperature=0.05,
    schedule="linear",
    response_noise=0.2,
    held_out_pairs=2,
    evaluate_every=4,
    evaluate_tokens=8,
    checkpoint_every=3,
)
