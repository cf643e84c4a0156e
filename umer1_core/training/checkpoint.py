"""Checkpoints that are there whole or not at all, and the records beside them.

Guarantee: a folder `step-000123` appears by one rename after all processes have put their files on disk, so a kill -9
at any moment leaves the newest complete one to resume from. A checkpoint of other data or other settings is never
resumed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from umer1_core.training.ranks import Ranks

_TEMPORARY = ".tmp-"
_META = "meta.json"
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


def write_folder(target: Path, fill: Callable[[Path], None], ranks: Ranks) -> None:
    """Every process fills a temporary folder; then it is synced and put in the place of `target`."""
    temporary = target.with_name(_TEMPORARY + target.name)
    if ranks.main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    ranks.barrier()
    fill(temporary)
    for file in temporary.rglob("*"):
        if file.is_file():
            _sync(file)
    ranks.barrier()
    if ranks.main:
        _sync(temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        _sync(target.parent)
    ranks.barrier()


def save_checkpoint(folder: Path, step: int, identity: Identity, fill: Callable[[Path], None], ranks: Ranks) -> None:
    """Write a checkpoint, `fill` called on every process, and drop all but the newest ones."""

    def fill_all(place: Path) -> None:
        fill(place)
        if ranks.main:
            write_json(place / _META, {"step": step, **identity.record()})

    write_folder(folder / f"step-{step:06d}", fill_all, ranks)
    if ranks.main:
        for old in _complete(folder)[:-_KEPT]:
            shutil.rmtree(old)


def newest_checkpoint(folder: Path, identity: Identity) -> tuple[int, Path] | None:
    """The newest complete checkpoint of this training: steps done, and where it lies."""
    for place in reversed(_complete(folder)):
        meta = read_json(place / _META)
        if meta is not None and identity.matches(meta):
            return meta["step"], place
    return None


def mark_complete(place: Path, step: int, identity: Identity, ranks: Ranks) -> None:
    """Say of a checkpoint that another library wrote in place, once every rank is done with it, that it is whole."""
    ranks.barrier()
    if ranks.main:
        for file in place.rglob("*"):
            if file.is_file():
                _sync(file)
        write_json(place / _META, {"step": step, **identity.record()})
        _sync(place)
    ranks.barrier()


def marked_checkpoints(folder: Path, identity: Identity) -> list[tuple[int, Path]]:
    """Those of this training that `mark_complete` marked, by steps done: (steps, place)."""
    found = []
    for place in folder.glob("checkpoint-*"):
        meta = read_json(place / _META)
        if meta is not None and identity.matches(meta):
            found.append((int(meta["step"]), place))
    return sorted(found)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Numbers that are not finite are null."""
    write_file(path, orjson.dumps(value, option=orjson.OPT_INDENT_2))


def write_file(path: Path, data: bytes) -> None:
    """A small file, whole or not at all."""
    temporary = path.with_name(_TEMPORARY + path.name)
    temporary.write_bytes(data)
    os.replace(temporary, path)


def read_json(path: Path) -> dict[str, Any] | None:
    return orjson.loads(path.read_bytes()) if path.exists() else None


def _complete(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
