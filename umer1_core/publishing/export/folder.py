"""The folder an export writes: files whole or not at all, and a list of what is finished.

Guarantees: a file appears by rename, and its size, checksum and what it was made from stand in `export.json` after it;
an export that was stopped keeps what is finished and makes the rest. Files of another export of the same folder go.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from blake3 import blake3

from umer1_core.errors import StorageError

LIST = "export.json"
_TEMPORARY = ".tmp-"


@dataclass
class ExportFolder:
    """`left_out`: rows that could not be exported, by the file they would stand in, each with its reason."""

    path: Path
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    kept: int = 0

    @classmethod
    def open(cls, path: Path) -> ExportFolder:
        """Raises StorageError where the folder holds something that no export made."""
        listed = path / LIST
        if listed.exists():
            record = orjson.loads(listed.read_bytes())
            return cls(path, record["files"], record["left_out"])
        if path.exists() and any(not each.name.startswith(_TEMPORARY) for each in path.iterdir()):
            raise StorageError(f"{path} is not empty and holds no export.", "Name a new folder with --to.")
        path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    def write(self, name: str, made_from: str, make: Callable[[Path], list[dict[str, str]]]) -> None:
        """Make a file, unless it is whole and was made from the same. `make` returns the rows it left out."""
        target, known = self.path / name, None if name in self.left_out else self.files.get(name)
        if known and known["made_from"] == made_from and target.exists() and target.stat().st_size == known["bytes"]:
            self.kept += 1
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{_TEMPORARY}{target.name}")
        try:
            left_out = make(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except OSError as error:
            raise StorageError(
                f"Cannot write {target}: {error.strerror or error}.", "Free some space, then run the same command."
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        digest = blake3().update_mmap(target).hexdigest()
        self.files[name] = {"made_from": made_from, "bytes": target.stat().st_size, "blake3": digest}
        self.left_out.pop(name, None)
        if left_out:
            self.left_out[name] = left_out
        self._save()

    def finish(self, wanted: set[str]) -> None:
        """Remove the files of another export that are not wanted any more."""
        for name in set(self.files) - wanted:
            (self.path / name).unlink(missing_ok=True)
            del self.files[name]
            self.left_out.pop(name, None)
        self._save()

    @property
    def bytes(self) -> int:
        return sum(int(each["bytes"]) for each in self.files.values())

    def require_space(self, needed: int) -> None:
        """Raises StorageError where what is still to be written does not fit."""
        free = shutil.disk_usage(self.path).free
        if needed - self.bytes > free:
            raise StorageError(
                f"The export needs about {needed / 1e9:,.1f} GB, and {self.path} has {free / 1e9:,.1f} GB free.",
                "Name a folder on a larger disk with --to, or leave media where they are: --media reference.",
            )

    def _save(self) -> None:
        temporary = self.path / f"{_TEMPORARY}{LIST}"
        record = {"files": self.files, "left_out": self.left_out}
        temporary.write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
        os.replace(temporary, self.path / LIST)
