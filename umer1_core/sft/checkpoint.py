"""Checkpoints that are there whole or not at all, and the records beside them.

Guarantee: a folder `step-000123` appears by one rename after its files are on disk, so a kill -9 at any moment leaves
the newest complete one to resume from. A checkpoint of other data or other settings is never resumed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_TEMPORARY = ".tmp-"
_KEPT = 2


@dataclass(frozen=True, slots=True)
class Identity:
    """What a training is of: the data set's content and the settings that shape the result."""

    data_hash: str
    fingerprint: str

    def record(self) -> dict[str, str]:
        return {"data_hash": self.data_hash, "fingerprint": self.fingerprint}

    def matches(self, record: dict[str, Any] | None) -> bool:
        return record is not None and all(record.get(key) == value for key, value in self.record().items())


def write_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a temporary folder, sync it, put it in the place of `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(_TEMPORARY + target.name)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    fill(temporary)
    for file in temporary.rglob("*"):
        if file.is_file():
            _sync(file)
    _sync(temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    _sync(target.parent)


def save_checkpoint(folder: Path, step: int, identity: Identity, state: dict[str, Any]) -> None:
    """Write a checkpoint and drop all but the newest ones."""

    def fill(place: Path) -> None:
        torch.save(state, place / "state.pt")
        (place / "meta.json").write_text(json.dumps({"step": step, **identity.record()}))

    write_folder(folder / f"step-{step:06d}", fill)
    for old in _complete(folder)[:-_KEPT]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path, identity: Identity) -> tuple[int, dict[str, Any]] | None:
    """The newest complete checkpoint of this training: (steps done, state)."""
    for place in reversed(_complete(folder)):
        meta = read_json(place / "meta.json")
        if meta is not None and identity.matches(meta):
            return meta["step"], torch.load(place / "state.pt", map_location="cpu", weights_only=True)
    return None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """A small file, whole or not at all."""
    temporary = path.with_name(_TEMPORARY + path.name)
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)


def read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def cut_log(path: Path, steps: int) -> None:
    """Drop the lines of steps that a resumed training does again, and a half-written last line."""
    if not path.exists():
        return
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
    kept = "".join(line for line in lines if json.loads(line)["step"] <= steps)
    temporary = path.with_name(_TEMPORARY + path.name)
    temporary.write_text(kept)
    os.replace(temporary, path)


def _complete(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
