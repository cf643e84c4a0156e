"""A training of a few steps on twelve pairs, and what it wrote down."""

import json
from pathlib import Path
from typing import Any

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
_OF_THE_MACHINE = {"seconds", "tokens_per_s", "memory_gb"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def losses(folder: Path) -> list[dict[str, Any]]:
    """What a training computed in each step, without how fast."""
    return [{k: v for k, v in line.items() if k not in _OF_THE_MACHINE} for line in lines(folder / "losses.jsonl")]
