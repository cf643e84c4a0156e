"""Images and clips by reference: opened where they lie, hashed, checked, handed on byte for byte.

Images are files, tar members or Parquet cells. Clips are folders of frames, tar members or video files; eight frames
are chosen as upstream does (`linspace` over the natural order). A JPEG travels as the JPEG it is: nothing here
re-encodes a picture, except the frames of a video file, which exist only decoded.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import IO, cast
from urllib.parse import quote

import fsspec
import numpy as np
import pyarrow.parquet as pq
from blake3 import blake3
from PIL import Image, UnidentifiedImageError
from pybase64 import b64encode

from umer1_core.errors import BadInput
from umer1_core.pairs import Media

VIDEO_SUFFIXES = {".mp4", ".webm", ".mkv", ".avi", ".mov"}
FRAME_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_FRAME_QUALITY = 90
_IMAGE_TYPES = {
    b"\xff\xd8\xff": b"image/jpeg",
    b"\x89PNG": b"image/png",
    b"GIF8": b"image/gif",
    b"BM": b"image/bmp",
    b"II*\0": b"image/tiff",
    b"MM\0*": b"image/tiff",
}


def describe(media: Media) -> Media:
    """Fill in hash, size and dimensions. Raises BadInput when what it points to is missing or damaged."""
    if media.kind == "image":
        data = read_image(media)
        width, height = _check_image(data, media.where)
        return replace(media, content_hash=blake3(data).hexdigest(), size=len(data), width=width, height=height)
    frames = read_frames(media)
    width, height = _check_image(frames[0], media.where)
    for frame in frames[1:]:
        _check_image(frame, media.where)
    if is_video_file(media.uri):
        data = _read_file(media.uri)
        return replace(media, content_hash=blake3(data).hexdigest(), size=len(data), width=width, height=height)
    digest = blake3("".join(blake3(frame).hexdigest() for frame in frames).encode()).hexdigest()
    return replace(media, content_hash=digest, size=sum(map(len, frames)), width=width, height=height)


def read_image(media: Media) -> bytes:
    """The encoded bytes of an image, exactly as stored."""
    if not media.member:
        return _read_file(media.uri)
    if media.uri.endswith(_TAR_SUFFIXES):
        return _read_members(media.uri, (media.member,))[0]
    return _read_cell(media)


def read_frames(media: Media) -> list[bytes]:
    """The encoded bytes of a clip's chosen frames, in order."""
    if is_video_file(media.uri):
        return _decode_video(media.uri, len(media.frames) or 8)
    if media.uri.endswith(_TAR_SUFFIXES):
        return _read_members(media.uri, media.frames)
    return [_read_file(f"{media.uri}/{name}") for name in media.frames]


def open_image(data: bytes) -> Image.Image:
    """Decode to RGB for a model."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def data_url(media: Media) -> bytes:
    """The bytes as a data URL: an image with its own type, a clip as comma-separated JPEG frames (vLLM's form)."""
    if media.kind == "image":
        data = read_image(media)
        return b"".join((b"data:", image_type(data), b";base64,", b64encode(data)))
    frames = read_frames(media)
    # GLM-4.1V sees frames in pairs and refuses a clip of one; a still shown twice is the same clip.
    frames = frames * 2 if len(frames) == 1 else frames
    return b"data:video/jpeg;base64," + b",".join(map(b64encode, frames))


def file_url(media: Media) -> bytes | None:
    """An image that is a file of this machine, as `file://` and its absolute path; None for everything else."""
    if media.kind != "image" or media.member or is_video_file(media.uri):
        return None
    path = local_path(media.uri)
    if path is None:
        return None
    if not os.path.isfile(path):
        raise BadInput("media_missing", f"there is no file {media.uri}")
    return b"file://" + quote(os.path.abspath(path)).encode()


def local_path(uri: str) -> str | None:
    """The path behind a URI of this machine's file system; None for other file systems."""
    scheme, separator, rest = uri.partition("://")
    return uri if not separator else rest if scheme in ("file", "local") else None


def image_type(data: bytes) -> bytes:
    """The media type by the first bytes: asking Pillow costs as much as everything else a request needs."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return b"image/webp"
    return next((kind for magic, kind in _IMAGE_TYPES.items() if data.startswith(magic)), b"image/png")


def clip_from_folder(folder: Path, count: int) -> Media:
    """A clip whose frames are the pictures in a folder. Raises BadInput when there are none."""
    if not folder.is_dir():
        raise BadInput("media_missing", f"there is no folder of frames at {folder}")
    names = natural_sort(p.name for p in folder.iterdir() if p.suffix.lower() in FRAME_SUFFIXES)
    if not names:
        raise BadInput("clip_without_frames", f"{folder} holds no frames")
    return Media("video", str(folder), frames=tuple(choose_frames(names, count)))


def choose_frames(names: Sequence[str], count: int) -> list[str]:
    """Evenly spaced frames, ends included, as upstream: `np.linspace(0, n-1, count, dtype=int)`; fewer if n < count."""
    if len(names) <= count:
        return list(names)
    return [names[i] for i in np.linspace(0, len(names) - 1, count, dtype=int)]


def natural_sort(names: Sequence[str] | object) -> list[str]:
    """`frame_2` before `frame_10`."""
    return sorted(
        cast(Sequence[str], names), key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]
    )


def is_video_file(uri: str) -> bool:
    return Path(uri).suffix.lower() in VIDEO_SUFFIXES


def safe_join(root: Path, relative: str) -> Path:
    """`root/relative`, or BadInput when that would leave root (`..`, absolute paths, links that escape)."""
    path = (root / relative).resolve()
    if not path.is_relative_to(root.resolve()):
        raise BadInput("path_outside_root", f"{relative!r} leaves {root}")
    return path


# -- reading ---------------------------------------------------------------------------------------------------------


def _read_file(uri: str) -> bytes:
    path = local_path(uri)
    try:
        # Plain open: fsspec costs four times the read of a local photograph.
        with open(path, "rb") if path else fsspec.open(uri, "rb") as file:
            return bytes(file.read())
    except FileNotFoundError as error:
        raise BadInput("media_missing", f"there is no file {uri}") from error
    except IsADirectoryError as error:
        raise BadInput("media_missing", f"{uri} is a folder, not an image") from error
    except PermissionError as error:
        raise BadInput("media_unreadable", f"{uri} may not be read") from error


def _check_image(data: bytes, where: str) -> tuple[int, int]:
    """Width and height. The header always, and the pixels where the end of the file looks cut off."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            size = image.size
            if not _complete(data, image.format):
                image.load()
            return size
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput("image_damaged", f"{where} does not decode: {_short(error)}") from error


def _complete(data: bytes, kind: str | None) -> bool:
    if kind == "JPEG":
        return data[-2:] == b"\xff\xd9"
    return kind == "PNG" and b"IEND" in data[-12:]


def _short(error: Exception) -> str:
    return re.sub(r" ?<_io\.BytesIO[^>]*>", "", str(error))[:120]


@lru_cache(maxsize=8)
def _parquet(uri: str) -> tuple[pq.ParquetFile, list[int], threading.Lock]:
    file = pq.ParquetFile(fsspec.open(uri, "rb").open(), memory_map=False)
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    return file, [int(n) for n in np.cumsum([0, *groups])], threading.Lock()


@lru_cache(maxsize=4)
def _row_group(uri: str, group: int, column: str) -> list[bytes]:
    file, _, lock = _parquet(uri)
    with lock:
        cells = file.read_row_group(group, columns=[column]).column(column).to_pylist()
    return [cell["bytes"] if isinstance(cell, dict) else cell for cell in cells]


def _read_cell(media: Media) -> bytes:
    column, _, row = media.member.rpartition("#")
    try:
        _, starts, _ = _parquet(media.uri)
        group = int(np.searchsorted(starts, int(row), side="right")) - 1
        cell = _row_group(media.uri, group, column)[int(row) - starts[group]]
    except (FileNotFoundError, IndexError, KeyError) as error:
        raise BadInput("media_missing", f"{media.where} is not there: {error}") from error
    if not cell:
        raise BadInput("media_missing", f"{media.where} is empty")
    return cell


class TarReader:
    """Members of a tar, also inside gzip, by their place in the stream: indexed once, then read by seeking.

    Reads in stored order never rewind; a lock keeps concurrent readers from moving each other's cursor.
    """

    def __init__(self, uri: str) -> None:
        self._lock = threading.Lock()
        tar = tarfile.open(fileobj=cast(IO[bytes], fsspec.open(uri, "rb").open()), mode="r:*")
        self._stream = cast(IO[bytes], tar.fileobj)
        self.members: dict[str, tuple[int, int]] = {}  # name: (offset, size); a TarInfo each would take gigabytes
        while (member := tar.next()) is not None:
            if member.isfile():
                self.members[member.name.removeprefix("./")] = (member.offset_data, member.size)
            tar.members.clear()  # type: ignore[attr-defined]

    def read(self, names: Sequence[str]) -> list[bytes]:
        with self._lock:
            data = {name: self._at(*self.members[name]) for name in sorted(set(names), key=lambda n: self.members[n])}
        return [data[name] for name in names]

    def _at(self, offset: int, size: int) -> bytes:
        self._stream.seek(offset)
        data = self._stream.read(size)
        if len(data) < size:
            raise EOFError("unexpected end of data")
        return data


@lru_cache(maxsize=32)
def tar_reader(uri: str) -> TarReader:
    """The reader of an archive, kept open. Raises BadInput when it is no tar."""
    try:
        return TarReader(uri)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BadInput("archive_damaged", f"{uri} cannot be read as a tar: {_short(error)}") from error


def _read_members(uri: str, names: Sequence[str]) -> list[bytes]:
    try:
        return tar_reader(uri).read(names)
    except KeyError as error:
        raise BadInput("media_missing", f"{uri} has no member {error}") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BadInput("archive_damaged", f"{uri} breaks off: {_short(error)}") from error


def _decode_video(uri: str, count: int) -> list[bytes]:
    try:
        from decord import DECORDError, VideoReader
    except ImportError as error:
        raise BadInput(
            "no_video_decoder", f"{uri} needs decord, which this platform lacks; unpack it to frames"
        ) from error
    try:
        reader = VideoReader(io.BytesIO(_read_file(uri)), num_threads=1)
        picks = choose_frames([str(i) for i in range(len(reader))], count)
        frames = reader.get_batch([int(i) for i in picks]).asnumpy()
    except (DECORDError, RuntimeError, IndexError) as error:
        raise BadInput("video_damaged", f"{uri} does not decode: {_short(error)}") from error
    if len(frames) == 0:
        raise BadInput("clip_without_frames", f"{uri} holds no frames")
    return [_jpeg(frame) for frame in frames]


def _jpeg(frame: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(frame).save(sink, "JPEG", quality=_FRAME_QUALITY)
    return sink.getvalue()
