"""What was found out about a large archive, kept beside umer1's cache so that later processes need not look again.

The folder is `~/.cache/umer1/archives`, or the same under $XDG_CACHE_HOME; it may be deleted at any time. A file's name
stands for the archive's URI, size and time, so that a changed archive is looked at again. Files appear whole or not at
all. Where the folder cannot be written, nothing is kept, and a warning says so.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from umer1_core.media.files import file_state
from umer1_core.media.paths import local_path

_FORM = "1"  # of the kept files; raised when they change
_SMALL = 16 << 20  # bytes; a smaller archive is read again in less than a tenth of a second

_logger = logging.getLogger(__name__)


def place_for(uri: str, suffix: str) -> Path | None:
    """Where to keep something about an archive; None for a small one. Raises BadInput when it is not there."""
    size, state = file_state(uri)
    if size < _SMALL:
        return None
    path = local_path(uri)
    name = blake3("\x1f".join((_FORM, os.path.abspath(path) if path else uri, str(size), state)).encode()).hexdigest()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "umer1" / "archives" / f"{name[:32]}{suffix}"


def keep(place: Path, write: Callable[[str], object]) -> None:
    """`write` gets a temporary path, which is then renamed to `place`."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=place.parent, suffix=".part")
        os.close(handle)
        try:
            write(temporary)
            os.replace(temporary, place)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        _logger.warning("The index of an archive is not kept in %s: %s.", place.parent, error)
