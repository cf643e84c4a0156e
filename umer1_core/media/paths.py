"""Names of files and members: what they are by their suffix, and that none of them leaves its root.

`safe_join`, `safe_uri` and `check_member` raise BadInput `path_outside_root`; nothing outside a root is ever opened.
"""

from __future__ import annotations

import re
from pathlib import Path

from umer1_core.errors import BadInput

VIDEO_SUFFIXES = {".mp4", ".webm", ".mkv", ".avi", ".mov"}
FRAME_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:(//|[\\/])")  # file://, s3://, and a drive as in C:\


def is_video_file(uri: str) -> bool:
    return Path(uri).suffix.lower() in VIDEO_SUFFIXES


def is_archive(uri: str) -> bool:
    return uri.lower().endswith(ARCHIVE_SUFFIXES)


def local_path(uri: str) -> str | None:
    """The path behind a URI of this machine's file system; None for other file systems."""
    scheme, separator, rest = uri.partition("://")
    return uri if not separator else rest if scheme in ("file", "local") else None


def safe_join(root: Path, relative: str) -> Path:
    """`root/relative` with links resolved, or BadInput when that would leave root.

    Refused: `..` that climbs out, absolute paths, URIs, drives, links that escape, backslashes and NUL.
    """
    _check_characters(relative, str(root))
    path = (root / relative).resolve()
    if not path.is_relative_to(root.resolve()):
        raise BadInput("path_outside_root", f"{relative!r} leaves {root}")
    return path


def safe_uri(root: str, relative: str) -> str:
    """`safe_join` for a root on any file system; on one that is not this machine's, `..` is refused wherever it is."""
    path = local_path(root)
    if path is not None:
        return str(safe_join(Path(path), relative))
    check_member(relative, root)
    return f"{root.rstrip('/')}/{relative}"


def check_member(name: str, archive: str) -> None:
    """Raise BadInput for a member name that would leave the folder it is unpacked in."""
    _check_characters(name, archive)
    if name.startswith("/") or ".." in name.split("/"):
        raise BadInput("path_outside_root", f"{name!r} of {archive} leaves the archive's folder")


def _check_characters(name: str, root: str) -> None:
    if "\0" in name or "\\" in name:
        raise BadInput("path_outside_root", f"{name!r} has a backslash or NUL; write paths under {root} with /")
    if _SCHEME.match(name):
        raise BadInput("path_outside_root", f"{name!r} is no path under {root}")
