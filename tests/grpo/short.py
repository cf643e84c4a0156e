"""A training of a few steps on six pairs, and what it wrote down."""

from __future__ import annotations

from pathlib import Path

import pyarrow.dataset as ds

from schemas.grpo import Grpo
from schemas.grpo_guards import GrpoGuards
from tests.training.steplog import losses

SHORT = Grpo(
    steps=6,
    block_pairs=2,
    group=4,
    micro_pairs=1,
    max_new_tokens=24,
    max_prompt_tokens=2_000,
    learning_rate=1e-3,
    schedule="linear",
    checkpoint_every=2,
    evaluate_every=0,
    guards=GrpoGuards(enabled=False),
)


def assert_equal(folder: Path, expected: Path) -> None:
    """The same curve, the same rollouts, and the same weights bit for bit."""
    assert losses(folder) == losses(expected)
    tables = [ds.dataset(str(f / "rollouts")).to_table().sort_by([("step", "ascending")]) for f in (folder, expected)]
    assert tables[0].num_rows > 0 and tables[0].equals(tables[1])
    weights = [(f / "model" / "model.safetensors").read_bytes() for f in (folder, expected)]
    assert weights[0] == weights[1]
    assert not list(folder.rglob(".tmp-*"))
