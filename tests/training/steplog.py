"""What a training wrote down of itself, without how fast it was."""

import json
from pathlib import Path
from typing import Any

_OF_THE_MACHINE = {"seconds", "generate_s", "score_s", "train_s", "tokens_per_s", "memory_gb"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def losses(folder: Path) -> list[dict[str, Any]]:
    """What a training computed in each step."""
    return [{k: v for k, v in line.items() if k not in _OF_THE_MACHINE} for line in lines(folder / "losses.jsonl")]
