"""Puts the procedural world on disk once: training and held-out pairs, each in the four upstream layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from blake3 import blake3

from umer1_core.miniature.layouts import write_world

_MADE_BY = ("world.py", "samples.py", "rendering.py", "layouts.py", "instructions.py")


def ensure_world(root: Path, pairs: int, held_out: int, seed: int) -> bool:
    """Write `root/train` and `root/heldout` unless this very world is there; True when it was written."""
    wanted = {"pairs": pairs, "held_out": held_out, "seed": seed, "code": _code_hash()}
    marker = root / "world.json"
    if marker.exists() and json.loads(marker.read_text()) == wanted:
        return False
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    write_world(root / "train", pairs, seed, "train")
    write_world(root / "heldout", held_out, seed, "heldout")
    marker.write_text(json.dumps(wanted))
    return True


def _code_hash() -> str:
    folder = Path(__file__).parent
    return blake3(b"".join((folder / name).read_bytes() for name in _MADE_BY)).hexdigest()[:16]
