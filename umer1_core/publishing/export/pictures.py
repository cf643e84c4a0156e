"""Media as what other programs read: `datasets.Image` cells, each with bytes or with a path.

Guarantees: bytes are the stored ones, never encoded anew (frames of a video file exist only decoded). A path is one
that `datasets` opens: a file, or a member of a zip or tar. What has no such path is embedded: cells of Parquet files,
frames of video files, members of compressed tars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from umer1_core.media import is_archive, is_video_file, read_frames, read_image
from umer1_core.pairs import Media, media_from_record
from umer1_core.publishing.export import Wanted

Cell = dict[str, Any]  # bytes and path, as `datasets.Image` stores them


def side_kind(media: Sequence[Mapping[str, Any]]) -> str:
    """What stands before a side's text: text (nothing), image or video."""
    kinds = {item["kind"] for item in media}
    return "video" if "video" in kinds else "image" if kinds else "text"


def cells(media: Sequence[Mapping[str, Any]], wanted: Wanted) -> list[Cell]:
    """The pictures of a side, a clip as its frames. Raises BadInput where one cannot be read."""
    return [cell for record in media for cell in _cells(media_from_record(dict(record)), wanted)]


def embedded_bytes(media: Sequence[Mapping[str, Any]], wanted: Wanted) -> int:
    """About how many bytes `cells` will hold."""
    found = (media_from_record(dict(record)) for record in media)
    return sum(item.size for item in found if is_embedded(item, wanted))


def is_embedded(media: Media, wanted: Wanted) -> bool:
    inside = media.member or (media.uri if media.kind == "video" else "")
    has_path = not (media.kind == "video" and is_video_file(inside))
    if media.member or is_archive(media.uri):
        has_path = has_path and media.uri.lower().endswith((".zip", ".tar"))
    return wanted == "embed" or not has_path


def _cells(media: Media, wanted: Wanted) -> list[Cell]:
    if not is_embedded(media, wanted):
        return [{"bytes": None, "path": path} for path in _paths(media)]
    if media.kind == "image":
        return [{"bytes": read_image(media), "path": _name(media.member or media.uri)}]
    names = media.frames or ("",)
    return [
        {"bytes": frame, "path": _name(names[number % len(names)]) or f"{number}.jpg"}
        for number, frame in enumerate(read_frames(media))
    ]


def _paths(media: Media) -> list[str]:
    members = [media.member] if media.kind == "image" else list(media.frames)
    if is_archive(media.uri):
        scheme = media.uri.rpartition(".")[2].lower()
        return [f"{scheme}://{member}::{media.uri}" for member in members]
    return [media.uri] if media.kind == "image" else [f"{media.uri}/{frame}" for frame in members]


def _name(path: str) -> str:
    """What `datasets` shows as the picture's name: the last part, without a cell's row number."""
    return path.rpartition("/")[2]
