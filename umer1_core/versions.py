"""The versions of a data set: `output/v1`, `output/v2`, …, each one root with all its tables.

The same recipe always comes back to the same version, finished or not. A recipe whose data part changed, every
re-annotation and every redrive open the next version with the newest as its parent: paid-for answers are taken over.
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
from typing import IO, Any, Literal

from blake3 import blake3

from schemas.recipe import Recipe
from schemas.tables import SCHEMA_VERSION
from umer1_core.errors import RecipeError, StorageError
from umer1_core.recipes import absolute, load_recipe, parse_recipe
from umer1_core.store import Store, fingerprint

Mode = Literal["build", "reannotate", "redrive"]
_WAIT_SECONDS = 1.0
_VERSION = re.compile(r"v(\d+)$")


@dataclass(frozen=True, slots=True)
class Version:
    """What `version.json` says. `parent` is the root of the version before, or empty.

    reason: of a redrive that asks only for the dead letters of one reason; otherwise empty.
    """

    root: str
    number: int
    parent: str
    mode: Mode
    data_fingerprint: str
    created: str
    reason: str = ""

    @property
    def store(self) -> Store:
        return Store(self.root)


def data_fingerprint(recipe: Recipe, annotator: str) -> str:
    """Over what the rows and their shards depend on. Where and how fast it runs makes no new data set.

    A version whose shards were cut anew would pay for its answers again; a child takes them over.
    """
    chosen = {"seed", "miniature", "sources", "media", "filters", "publishing"}
    shape = {"samples": recipe.annotation.samples, "shard_rows": recipe.annotation.shard_rows}
    return fingerprint(recipe.model_dump(mode="json", include=chosen), annotator, shape, SCHEMA_VERSION)


def list_versions(output: str) -> list[Version]:
    """All versions under an output, oldest first."""
    store = Store(output)
    if not store.fs.exists(store.path):
        return []
    names = {name.rstrip("/").rsplit("/", 1)[-1] for name in store.fs.ls(store.path, detail=False)}
    numbers = sorted(int(match.group(1)) for match in map(_VERSION.fullmatch, names) if match)
    found = ((n, store.read_json(f"v{n}/version.json")) for n in numbers)
    return [_version(store.root, n, record) for n, record in found if record]


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
    last = _something(recipe.output, "re-annotate")
    if last.mode == "reannotate" and not is_finished(last):
        return last
    return _create(recipe, annotator, last, "reannotate")


def open_redrive(recipe: Recipe, annotator: str, reason: str = "") -> Version:
    """The next version, or the newest when it is this redrive and not finished yet.

    Raises StorageError or RecipeError where more than the dead letters would be asked for.
    """
    last = _something(recipe.output, "redrive")
    if last.data_fingerprint != data_fingerprint(recipe, annotator):
        raise RecipeError(
            f"The recipe is not the one that {last.root} was made with: a redrive asks only for what failed.",
            f"Use that version's own recipe (umer1 redrive {last.root}), or build the changed one: umer1 build …",
        )
    if is_finished(last):
        return _create(recipe, annotator, last, "redrive", reason)
    if last.mode == "redrive" and last.reason == reason:
        return last
    raise StorageError(
        f"{last.root} is not finished (its mode: {last.mode}{f', reason {last.reason}' if last.reason else ''}).",
        "Finish it with the command that began it, then redrive.",
    )


def is_finished(version: Version) -> bool:
    return version.store.exists("manifest.json")


def parents_of(version: Version, recipe: Recipe) -> list[str]:
    """Roots to take answers over from: what came with the sources, the versions before, then `annotation.reuse`.

    Of the versions before, nearest first, back to the nearest that was finished.
    """
    by_root = {each.root: each for each in list_versions(version.root.rpartition("/")[0])}
    imported = f"{version.root}/imported"
    roots = [imported] if version.store.exists("imported/entries/annotations") else []
    parent = by_root.get(version.parent)
    while parent is not None:
        roots.append(parent.root)
        parent = None if is_finished(parent) else by_root.get(parent.parent)
    others = [_reused(location) for location in recipe.annotation.reuse]
    return list(dict.fromkeys(root for root in [*roots, *others] if root != version.root))


def _reused(location: str) -> str:
    store = resolve(location)
    if not store.exists("version.json"):
        raise StorageError(
            f"annotation.reuse: there is no data set at {location}.", "Correct the path, or remove it from the recipe."
        )
    return store.root


def recipe_at(location: str) -> Recipe:
    """The recipe in a YAML file, or the one that a data set (a version, or the output that holds it) was made with.

    Raises RecipeError or StorageError where there is neither, or where the version is not the newest finished one.
    """
    if Path(location).is_file() or location.endswith((".yaml", ".yml")):
        return load_recipe(location)
    store = Store(location)
    place = store.path if store.local else store.root
    one = store.exists("version.json")
    output = place.rpartition("/")[0] if one else place
    versions = list_versions(output)
    if not versions:
        raise StorageError(f"There is no data set at {location}.", "Give a version, its output, or a recipe.")
    last = next((version for version in reversed(versions) if is_finished(version)), versions[-1])
    if one and last.root != place:
        raise StorageError(f"{place} is not the newest finished version.", f"That is {last.root}.")
    return absolute(recipe_of(last.store).model_copy(update={"output": output}))


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


def _something(output: str, verb: str) -> Version:
    last = newest(output)
    if last is None:
        raise StorageError(f"There is no data set at {output} to {verb}.", "Build it first: umer1 build …")
    return last


def _version(output: str, number: int, record: dict[str, Any]) -> Version:
    """A data set may have been moved: its parent stands beside it."""
    parent = record["parent"] and f"{output}/{record['parent'].rpartition('/')[2]}"
    return Version(root=f"{output}/v{number}", **(record | {"parent": parent}))


def _create(recipe: Recipe, annotator: str, last: Version | None, mode: Mode, reason: str = "") -> Version:
    number = last.number + 1 if last else 1
    version = Version(
        root=f"{recipe.output}/v{number}",
        number=number,
        parent=last.root if last else "",
        mode=mode,
        data_fingerprint=data_fingerprint(recipe, annotator),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=reason,
    )
    record = asdict(version)
    del record["root"]  # a data set may be moved; its place is where it is found
    version.store.write_json("version.json", record)
    return version
