"""A gzip file as a stream that seeks: from the nearest seek point, not from the start.

indexed_gzip notes a point every 8 MiB of unpacked bytes (32 kB each; 36 MB for an archive of 9 GB), and they are kept
for later processes. Where it is not installed, gzip of the standard library unpacks again from the start at every step
back; what is read is the same.
"""

from __future__ import annotations

import gzip
import zlib
from typing import IO, Any, cast

from umer1_core.media.files import open_file
from umer1_core.media.kept import keep, place_for
from umer1_core.media.paths import local_path

try:
    import indexed_gzip
except ImportError:  # no wheel for this platform
    indexed_gzip = None

_SPACING = 8 << 20
_BUFFER = 1 << 20  # with the smaller default, eight frames take six times as long

# What a damaged gzip stream raises.
GZIP_ERRORS: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error)
if indexed_gzip is not None:
    GZIP_ERRORS += (indexed_gzip.ZranError, indexed_gzip.NotCoveredError)


def open_gzip(uri: str) -> IO[bytes]:
    """The unpacked bytes, with the seek points of a former process where there are any. Not for two threads at once."""
    if indexed_gzip is None:
        return cast(IO[bytes], gzip.GzipFile(fileobj=open_file(uri)))
    stream = _indexed(uri)
    place = place_for(uri, ".points")
    if place is not None and place.exists():
        try:
            stream.import_index(str(place))
        except GZIP_ERRORS:  # written by another version
            place.unlink(missing_ok=True)
            stream = _indexed(uri)
    return cast(IO[bytes], stream)


def keep_points(uri: str, stream: IO[bytes]) -> None:
    """Keep the seek points of a stream that was read to its end."""
    place = place_for(uri, ".points")
    if indexed_gzip is not None and place is not None and not place.exists():
        points = cast(Any, stream)
        points.build_full_index()
        keep(place, points.export_index)


def _indexed(uri: str) -> Any:
    path = local_path(uri)
    source = {"filename": path} if path else {"fileobj": open_file(uri)}
    return indexed_gzip.IndexedGzipFile(**source, spacing=_SPACING, drop_handles=False, buffer_size=_BUFFER)
