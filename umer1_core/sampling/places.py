"""A folder of a source, on this machine or on any fsspec file system, behind one small face.

Guarantees: nothing is reached outside the folder (see umer1_core.media.paths); messages show no credentials.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, Any, cast

import fsspec

from umer1_core.errors import BadInput, SourceError, safe_url
from umer1_core.media import local_path, safe_uri

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_LONGEST_PATH, _LONGEST_NAME = 4_096, 255


@dataclass(frozen=True)
class Place:
    """`uri`: the folder, without a slash at its end; of a local one the resolved path."""

    uri: str

    @cached_property
    def local(self) -> bool:
        return local_path(self.uri) is not None

    @cached_property
    def _files(self) -> tuple[Any, str]:
        return file_system(self.uri)

    def join(self, relative: str) -> str:
        """The URI of what lies at `relative`. Raises BadInput when that is no path inside the folder."""
        longest = max(len(part.encode()) for part in relative.split("/"))
        if not relative or len(relative) > _LONGEST_PATH or longest > _LONGEST_NAME:
            raise BadInput("bad_path", f"{relative[:80]!r} is no path")
        try:
            return safe_uri(self.uri, relative)
        except (OSError, RuntimeError) as error:  # a ring of links
            raise BadInput("bad_path", f"{relative[:80]!r} is no path: {error!r:.120}") from error

    def sub(self, relative: str) -> Place:
        """A folder inside. Raises BadInput as `join` does."""
        return Place(self.join(relative))

    def is_folder(self) -> bool:
        with _listed(self.uri):
            return os.path.isdir(self.uri) if self.local else bool(self._files[0].isdir(self._files[1]))

    def exists(self, relative: str) -> bool:
        return exists(self.join(relative))

    def glob(self, pattern: str) -> list[str]:
        """URIs of the files that match, sorted; `*` stays within a name."""
        with _listed(self.uri):
            if self.local:
                return sorted(str(path) for path in Path(self.uri).glob(pattern))
            system, path = self._files
            return sorted(system.unstrip_protocol(name) for name in system.glob(f"{path}/{pattern}"))

    def names(self) -> list[tuple[str, bool]]:
        """What lies directly inside: name, and whether it is a folder. Nothing where there is no such folder."""
        if not self.is_folder():
            return []
        with _listed(self.uri):
            if self.local:
                with os.scandir(self.uri) as entries:
                    return [(entry.name, entry.is_dir()) for entry in entries]
            system, path = self._files
            found = [
                (entry["name"].rstrip("/"), entry["type"] == "directory") for entry in system.ls(path, detail=True)
            ]
            return [(name.rpartition("/")[2], folder) for name, folder in found if name != path.rstrip("/")]


def place(root: str) -> Place:
    """The folder at a path or URI, whether it is there or not."""
    path = local_path(root)
    return Place(str(Path(path).expanduser().resolve()) if path is not None else root.rstrip("/"))


def require_place(root: str, name: str) -> Place:
    """`place`, or SourceError where there is no such folder."""
    folder = place(root)
    if not folder.is_folder():
        raise SourceError(
            f"{name}: there is no folder {safe_url(folder.uri)}.", "Correct `root` of this source in the recipe."
        )
    return folder


def folder_of(uri: str) -> Place:
    """The folder a file lies in."""
    return Place(uri.rpartition("/")[0])


def exists(uri: str) -> bool:
    path = local_path(uri)
    with _listed(uri):
        if path is not None:
            return os.path.exists(path)
        system, inside = file_system(uri)
        return bool(system.exists(inside))


@contextmanager
def _listed(uri: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceError(
            f"{safe_url(uri)} cannot be listed: {_short(error)}.", "Check its permissions and the connection."
        ) from error


def expand(pattern: str, name: str) -> list[str]:
    """The files that a path, URI or pattern means, sorted. Raises SourceError when there are none."""
    head, _, last = pattern.rpartition("/")
    fixed = re.split(r"[*?[]", head)[0]
    start = head if fixed == head else fixed.rpartition("/")[0]
    folder = place(start or ".")
    if start == head:  # one folder: also a file whose name only looks like a pattern
        files = [entry for entry, is_folder in folder.names() if not is_folder]
        found = [f"{folder.uri}/{entry}" for entry in files if entry == last or fnmatchcase(entry, last)]
    else:
        found = folder.glob(pattern.removeprefix(start).lstrip("/"))
    if not found:
        raise SourceError(
            f"{name}: there is no file {safe_url(pattern)}.", "Correct `files` of this source in the recipe."
        )
    return sorted(found)


def open_file(uri: str) -> IO[bytes]:
    """A file's bytes, unpacked where its name says that it is compressed. Raises SourceError when it is not there."""
    path = local_path(uri)
    try:
        if path is not None and not uri.endswith(_COMPRESSED):
            return open(path, "rb")
        return cast(IO[bytes], fsspec.open(uri, "rb", compression="infer").open())
    except (OSError, ImportError, ValueError) as error:
        raise SourceError(
            f"{safe_url(uri)} cannot be opened: {_short(error)}.", "Correct the path, or make it readable."
        ) from error


@lru_cache(maxsize=256)
def _known_system(root: str) -> Any:
    try:
        return fsspec.core.url_to_fs(root)[0]
    except (ImportError, ValueError) as error:
        raise SourceError(
            f"{safe_url(root)} cannot be reached: {_short(error)}.", "Install the file system's driver (as s3fs)."
        ) from error


def file_system(uri: str) -> tuple[Any, str]:
    """The file system of a URI and the path on it. Raises SourceError when its driver is missing."""
    scheme, separator, rest = uri.partition("://")
    root = f"{scheme}://{rest.partition('/')[0]}" if separator else "/"
    system = _known_system(root)
    return system, str(system._strip_protocol(uri))


def _short(error: Exception) -> str:
    return safe_url(str(error))[:200]
