"""The policy's weights in the folder that vLLM reads them from.

Guarantees: each file is there whole or as it was, weights last; none of an earlier checkpoint's weights stay beside
them, for an old index would have vLLM read old shards. A server that dies and is started again has the newest weights.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from umer1_core.errors import Fatal, StorageError
from umer1_core.grpo.rollouts.face import SaveWeights

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth")


def put_weights(save: SaveWeights, folder: Path, main: bool) -> None:
    """Save the policy into `folder`. Raises StorageError when it cannot be written.

    Every rank calls this, for sharded weights are gathered in `save`; what another than `main` saves is thrown away.
    """
    try:
        if not main:
            with tempfile.TemporaryDirectory(prefix="umer1-weights-") as aside:
                save(Path(aside))
            return
        fresh = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)  # left by a run that was killed
        fresh.mkdir(parents=True)
        save(fresh)
        _move(fresh, folder)
        shutil.rmtree(fresh)
    except OSError as error:
        raise StorageError(
            f"The policy's weights cannot be written to {folder}: {error.strerror}.", "Free some space there."
        ) from error


def _move(fresh: Path, folder: Path) -> None:
    files = [file for file in fresh.iterdir() if file.is_file()]
    if not _weights(fresh):
        raise Fatal(f"The policy was saved without weights for {folder}.")
    folder.mkdir(parents=True, exist_ok=True)
    weights = _weights(fresh)
    for file in sorted(files, key=lambda file: (file.name in weights, file.name)):
        os.replace(file, folder / file.name)
    for name in _weights(folder) - weights:
        (folder / name).unlink()


def _weights(folder: Path) -> set[str]:
    return {file.name for pattern in _WEIGHTS for file in folder.glob(pattern)}
