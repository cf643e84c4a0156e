"""The versions of a data set: `output/v1`, `output/v2`, …, each one root with all its tables.

The same recipe always comes back to the same version, finished or not. A recipe whose data part changed, and every
re-annotation, opens the next version with the newest as its parent, so paid-for answers are taken over.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal

from blake3 import blake3

from schemas.recipe import Recipe
from umer1_core.errors import StorageError
from umer1_core.recipes import parse_recipe
from umer1_core.store import Store, fingerprint

Mode = Literal["build", "reannotate"]
_WAIT_SECONDS = 1.0
_VERSION = re.compile(r"v(\d+)$")


@dataclass(frozen=True, slots=True)
class Version:
    """What `version.json` says. `parent` is the root of the version before, or empty."""

    root: str
    number: int
    parent: str
    mode: Mode
    data_fingerprint: str
    created: str

    @property
    def store(self) -> Store:
        return Store(self.root)


def data_fingerprint(recipe: Recipe, annotator: str) -> str:
    """Over what the rows depend on: sources, annotator, filters. Where and how fast it runs makes no new data set."""
    chosen = {"seed", "miniature", "sources", "filters", "publishing"}
    return fingerprint(recipe.model_dump(mode="json", include=chosen), annotator)


def list_versions(output: str) -> list[Version]:
    """All versions under an output, oldest first."""
    store = Store(output)
    if not store.fs.exists(store.path):
        return []
    names = {name.rstrip("/").rsplit("/", 1)[-1] for name in store.fs.ls(store.path, detail=False)}
    numbers = sorted(int(match.group(1)) for match in map(_VERSION.fullmatch, names) if match)
    found = ((n, store.read_json(f"v{n}/version.json")) for n in numbers)
    return [Version(root=f"{store.root}/v{n}", **record) for n, record in found if record]


def newest(output: str) -> Version | None:
    versions = list_versions(output)
    return versions[-1] if versions else None


def open_build(recipe: Recipe, annotator: str) -> Version:
    """The version this recipe builds: the newest if it has the same data part, otherwise the next."""
    last = newest(recipe.output)
    if last is not None and last.data_fingerprint == data_fingerprint(recipe, annotator):
        return last
    return _create(recipe, annotator, last, "build")


def open_reannotation(recipe: Recipe, annotator: str) -> Version:
    """The next version, or the newest when it is a re-annotation that has not been finished yet."""
    last = newest(recipe.output)
    if last is None:
        raise StorageError(f"There is no data set at {recipe.output} to re-annotate.", "Build it first: umer1 build …")
    if last.mode == "reannotate" and not last.store.exists("manifest.json"):
        return last
    return _create(recipe, annotator, last, "reannotate")


def recipe_of(store: Store) -> Recipe:
    """The recipe a version was built with. Raises StorageError where no finished data set lies."""
    manifest = store.read_json("manifest.json")
    if manifest is None:
        raise StorageError(f"{store.root} holds no finished data set.", "Give the folder of a version, as runs/x/v1.")
    return parse_recipe(manifest["recipe"], f"{store.root}/manifest.json")


def resolve(location: str) -> Store:
    """The store of a version given by its own root or by the output that holds it (then the newest)."""
    last = None if Store(location).exists("version.json") else newest(location)
    return last.store if last else Store(location)


@contextlib.contextmanager
def exclusive(root: str, what: str, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """One writer per root on a machine; the kernel frees the lock however its holder ends.

    Waits for another holder where `on_wait` is given (called once, with a sentence); otherwise raises StorageError.
    """
    path = _lock_file(root, what)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        if not _try_lock(file):
            held = f"Another run is at work on {root} ({what})."
            if on_wait is None:
                raise StorageError(held, "Wait for it, or stop it.")
            on_wait(f"{held} Waiting for it.")
            while not _try_lock(file):
                time.sleep(_WAIT_SECONDS)
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(root: str, what: str) -> bool:
    """Whether a process of this machine is at work on a root."""
    if not _lock_file(root, what).exists():
        return False
    try:
        with exclusive(root, what):
            return False
    except StorageError:
        return True


def local_folder(store: Store, name: str) -> Path:
    """A folder on this machine's disk for a store's journals, logs and checkpoints: inside it where it is local."""
    if store.local:
        return Path(store.path) / name
    return Path.home() / ".cache" / "umer1" / blake3(store.root.encode()).hexdigest()[:16] / name


def _lock_file(root: str, what: str) -> Path:
    return local_folder(Store(root), "locks") / f"{what}.lock"


def _create(recipe: Recipe, annotator: str, last: Version | None, mode: Mode) -> Version:
    number = last.number + 1 if last else 1
    version = Version(
        root=f"{recipe.output}/v{number}",
        number=number,
        parent=last.root if last else "",
        mode=mode,
        data_fingerprint=data_fingerprint(recipe, annotator),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    record = asdict(version)
    del record["root"]  # a data set may be moved; its place is where it is found
    version.store.write_json("version.json", record)
    return version
