"""The stored bytes of what a Media points to: a file, a range of one, a member, a cell, a folder's frames."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from blake3 import blake3

from umer1_core.errors import BadInput
from umer1_core.media.archives import archive
from umer1_core.media.cells import read_cell
from umer1_core.media.files import read_file, read_range
from umer1_core.media.paths import FRAME_SUFFIXES, check_member, is_archive, is_video_file
from umer1_core.media.video import decode_frames
from umer1_core.pairs import Media


def read_image(media: Media) -> bytes:
    """The encoded bytes of an image or a video file, exactly as stored."""
    if not media.member:
        return read_file(media.uri)
    if media.offset >= 0:
        return _read_part(media)
    return archive(media.uri).read([media.member])[0] if is_archive(media.uri) else read_cell(media)


def read_frames(media: Media) -> list[bytes]:
    """The encoded bytes of a clip's chosen frames, in order; those of a video file as JPEG."""
    if is_video_file(media.member or media.uri):
        return decode_frames(read_image(media), media.frames, media.where)[1]
    if not media.frames:
        raise BadInput("clip_without_frames", f"{media.where} names no frames")
    if is_archive(media.uri):
        return archive(media.uri).read(media.frames)
    for name in media.frames:
        check_member(name, media.uri)
    return [read_file(f"{media.uri}/{name}") for name in media.frames]


def clip_from_folder(folder: Path, count: int) -> Media:
    """A clip whose frames are the pictures in a folder. Raises BadInput when there are none."""
    if not folder.is_dir():
        raise BadInput("media_missing", f"there is no folder of frames at {folder}")
    # Hidden files are what other systems leave beside pictures ("._frame.jpg"), no frames.
    names = natural_sort(
        p.name for p in folder.iterdir() if p.suffix.lower() in FRAME_SUFFIXES and not p.name.startswith(".")
    )
    if not names:
        raise BadInput("clip_without_frames", f"{folder} holds no frames")
    return Media("video", str(folder), frames=tuple(choose_frames(names, count)))


def choose_frames(names: Sequence[str], count: int) -> list[str]:
    """Evenly spaced frames, ends included, as upstream: `np.linspace(0, n-1, count, dtype=int)`; fewer if n < count."""
    if len(names) <= count:
        return list(names)
    return [names[i] for i in np.linspace(0, len(names) - 1, count, dtype=int)]


def natural_sort(names: Iterable[str]) -> list[str]:
    """`frame_2` before `frame_10`."""
    return sorted(names, key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)])


def _read_part(media: Media) -> bytes:
    data = read_range(media.uri, media.offset, media.size)
    # An archive that was replaced has other bytes there, and nothing else would tell.
    if media.content_hash and blake3(data).hexdigest() != media.content_hash:
        raise BadInput("media_changed", f"{media.where} is not what was sampled; sample again, or restore the archive")
    return data
