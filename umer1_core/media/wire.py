"""How pictures and clips travel to a server: as their own bytes or file; rendered here where their notes ask it.

vLLM 0.32 itself turns by EXIF and composes alpha on white, but clips 16-bit pixels, and other servers and versions do
less. So whatever has notes is rendered, once and here, and every server sees what the student sees.
"""

from __future__ import annotations

import io
import os
from urllib.parse import quote

from PIL import Image
from pybase64 import b64encode

from umer1_core.errors import BadInput
from umer1_core.media.paths import is_video_file, local_path
from umer1_core.media.reading import read_frames, read_image
from umer1_core.media.rendering import rendered
from umer1_core.pairs import Media

# A rendered picture goes as JPEG with full colour: PNG of 1.6 megapixels takes ten to thirty times the 11 ms and three
# times the bytes, and what JPEG loses at this quality is less than what a resize does.
_QUALITY = 95
_PNG_EFFORT = 1
_IMAGE_TYPES = {
    b"\xff\xd8\xff": b"image/jpeg",
    b"\x89PNG": b"image/png",
    b"GIF8": b"image/gif",
    b"BM": b"image/bmp",
    b"II*\0": b"image/tiff",
    b"MM\0*": b"image/tiff",
}


def data_url(media: Media, lossless: bool = False) -> bytes:
    """A data URL: an image with its own type, a clip as comma-separated frames (vLLM's form).

    lossless: what is rendered goes as PNG, for a server that must see the very pixels that the student does.
    """
    if media.kind == "image":
        data = _shown(read_image(media), media, lossless)
        return b"".join((b"data:", image_type(data), b";base64,", b64encode(data)))
    frames = [_shown(frame, media, lossless) for frame in read_frames(media)]
    # GLM-4.1V sees frames in pairs and refuses a clip of one; a still shown twice is the same clip.
    frames = frames * 2 if len(frames) == 1 else frames
    return b"data:video/jpeg;base64," + b",".join(map(b64encode, frames))


def file_url(media: Media) -> bytes | None:
    """An image that is a file of this machine, as `file://` and its absolute path.

    None for everything else, and for a picture with notes: the server would see another one.
    """
    if media.kind != "image" or media.member or is_video_file(media.uri) or is_rendered(media):
        return None
    path = local_path(media.uri)
    if path is None:
        return None
    if not os.path.isfile(path):
        raise BadInput("media_missing", f"there is no file {media.uri}")
    return b"file://" + quote(os.path.abspath(path)).encode()


def is_rendered(media: Media) -> bool:
    """Whether models see a rendered picture and not the stored bytes."""
    return any(not note.startswith("frames:") for note in media.notes)


def image_type(data: bytes) -> bytes:
    """The media type by the first bytes: asking Pillow costs as much as everything else a request needs."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return b"image/webp"
    return next((kind for magic, kind in _IMAGE_TYPES.items() if data.startswith(magic)), b"image/png")


def _shown(data: bytes, media: Media, lossless: bool) -> bytes:
    return _encoded(rendered(data, media.notes, media.where), lossless) if is_rendered(media) else data


def _encoded(picture: Image.Image, lossless: bool) -> bytes:
    """A rendered picture as JPEG, or without loss as PNG."""
    sink = io.BytesIO()
    if lossless:
        picture.save(sink, "PNG", compress_level=_PNG_EFFORT)
    else:
        picture.save(sink, "JPEG", quality=_QUALITY, subsampling=0)
    return sink.getvalue()
