"""Bytes of a file or of a part of it, on any file system; BadInput `media_missing` or `media_unreadable` otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

import fsspec

from umer1_core.errors import BadInput
from umer1_core.media.paths import local_path

_STATE = ("mtime", "LastModified", "last_modified", "ETag", "etag", "updated")


def read_file(uri: str) -> bytes:
    """All bytes of a file."""
    with _named(uri):
        path = local_path(uri)
        # Plain open: fsspec costs four times the read of a local photograph.
        with open(path, "rb") if path else fsspec.open(uri, "rb") as file:
            return bytes(file.read())


def read_range(uri: str, start: int, size: int) -> bytes:
    """`size` bytes from `start`, by one request. Raises BadInput `archive_damaged` when the file ends before."""
    with _named(uri):
        path = local_path(uri)
        if path:
            with open(path, "rb", buffering=0) as file:
                file.seek(start)
                data = file.read(size)
        else:
            fs, remote = fsspec.core.url_to_fs(uri)
            data = bytes(fs.cat_file(remote, start=start, end=start + size))
    if len(data) < size:
        raise BadInput("archive_damaged", f"{uri} ends before byte {start + size}; download it again")
    return data


def open_file(uri: str) -> IO[bytes]:
    """A seekable stream; the caller closes it."""
    with _named(uri):
        path = local_path(uri)
        return open(path, "rb") if path else cast(IO[bytes], fsspec.open(uri, "rb").open())


def file_state(uri: str) -> tuple[int, str]:
    """Size in bytes, and the time or tag that its file system keeps: what changes when the file does."""
    with _named(uri):
        fs, path = fsspec.core.url_to_fs(uri)
        info = fs.info(path)
    return int(info["size"] or 0), " ".join(str(info[key]) for key in _STATE if key in info)


def short(error: BaseException) -> str:
    """An error's text without addresses of objects, to fit a message."""
    return re.sub(r" ?<_?io\.[^>]*>", "", str(error))[:120]


@contextmanager
def _named(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise BadInput("media_missing", f"there is no file {uri}") from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise BadInput("media_missing", f"{uri} is a folder or lies under a file, not an image") from error
    except PermissionError as error:
        raise BadInput("media_unreadable", f"{uri} may not be read") from error
    except OSError as error:
        raise BadInput("media_unreadable", f"{uri} cannot be read: {short(error)}") from error
