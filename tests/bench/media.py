"""Media against the plain way: decoding all that is checked, gzip that starts over, a PNG for the wire, zipfile."""

import base64
import gzip
import io
import os
import random
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from schemas.sources import MediaRules
from tests.bench.line import Line, median_cpu_seconds
from umer1_core.media import archive, data_url, describe, read_image
from umer1_core.pairs import Media

_CLIPS, _FRAMES, _FRAME_BYTES = 400, 16, 30_000  # 192 MB, which gzip makes little smaller
_MEMBERS = 2_000


def lines() -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as name, mock.patch.dict(os.environ, XDG_CACHE_HOME=f"{name}/cache"):
        folder = Path(name)
        yield from _picture_lines(folder)
        yield _clip_line(folder)
        yield _zip_line(folder)


def _picture_lines(folder: Path) -> Iterator[Line]:
    smooth = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    photo = Image.fromarray(smooth).resize((1_024, 768), Image.Resampling.BICUBIC)
    photo.save(folder / "photo.jpg", quality=96)
    media = Media("image", str(folder / "photo.jpg"))
    size = f"{(folder / 'photo.jpg').stat().st_size // 1_000} kB"
    header = median_cpu_seconds(lambda: [describe(media, MediaRules(verify="header")) for _ in range(50)]) / 50
    decode = median_cpu_seconds(lambda: [describe(media, MediaRules(verify="decode")) for _ in range(5)]) / 5
    yield Line(f"data: JPEGs of {size} verified", 1 / header, 1 / decode, "/s", "decoding them", 8, True)
    described = describe(media)
    ours = median_cpu_seconds(lambda: [data_url(described) for _ in range(50)]) / 50
    plain = median_cpu_seconds(lambda: _png_url(folder / "photo.jpg"), runs=1)
    yield Line(f"data: a JPEG of {size} as data URL", 1e3 * ours, 1e3 * plain, "ms", "as PNG", 0.05, False)


def _png_url(path: Path) -> bytes:
    sink = io.BytesIO()
    Image.open(path).convert("RGB").save(sink, "PNG")
    return base64.b64encode(sink.getvalue())


def _clip_line(folder: Path) -> Line:
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "clips.tar.gz", "w:gz", compresslevel=1) as tar:
        for frame in range(_CLIPS * _FRAMES):
            member = tarfile.TarInfo(_frame(*divmod(frame, _FRAMES)))
            member.size = _FRAME_BYTES
            tar.addfile(member, io.BytesIO(rng.integers(0, 250, _FRAME_BYTES, dtype=np.uint8).tobytes()))
    opened = archive(str(folder / "clips.tar.gz"))
    clips = random.Random(0).sample(range(_CLIPS), 40)
    ours = median_cpu_seconds(lambda: [opened.read(_chosen(clip)) for clip in clips], runs=3) / len(clips)
    with gzip.open(folder / "clips.tar.gz") as stream:

        def rewind() -> None:
            for clip in clips[:6]:
                for name in _chosen(clip):
                    position, size = opened.members[name]
                    stream.seek(position)
                    stream.read(size)

        plain = median_cpu_seconds(rewind, runs=1) / 6
    megabytes = (folder / "clips.tar.gz").stat().st_size // 1_000_000
    name = f"data: a clip anywhere in {megabytes} MB of tar.gz"
    return Line(name, 1e3 * ours, 1e3 * plain, "ms", "gzip, from its start", 0.2, False)


def _frame(clip: int, frame: int) -> str:
    return f"{clip:05d}/{frame:03d}.jpeg"


def _chosen(clip: int) -> list[str]:
    return [_frame(clip, frame) for frame in range(0, _FRAMES, 2)]


def _zip_line(folder: Path) -> Line:
    path = str(folder / "pictures.zip")
    with zipfile.ZipFile(path, "w") as zipped:
        for i in range(_MEMBERS):
            zipped.writestr(f"images/{i}.jpg", os.urandom(50_000))
    media = [archive(path).media(f"images/{i}.jpg") for i in range(_MEMBERS)]
    ours = median_cpu_seconds(lambda: [read_image(item) for item in media]) / _MEMBERS
    with zipfile.ZipFile(path) as zipped:
        plain = median_cpu_seconds(lambda: [zipped.read(item.member) for item in media]) / _MEMBERS
    return Line("data: a picture of 50 kB from a zip", 1e6 * ours, 1e6 * plain, "µs", "zipfile, kept open", 1.0, False)
