"""One way from stored bytes to the picture that every model sees: upright, RGB, first of an animation, within limits.

Whatever the notes say, a picture is turned as its EXIF asks, made RGB and shown on white where it is transparent; the
notes add the size. vLLM 0.32 turns and composes likewise, but clips 16-bit pixels and ignores a transparent colour of
RGB; transformers' processors only `convert("RGB")`, which drops the alpha channel and what lies under it shows. So
a picture with notes goes to a server as rendered here, and the student gets the same one.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from umer1_core.errors import BadInput
from umer1_core.media.files import short

# Formats decoded in this process; others may start programs (EPS) or are documents (PDF). Phones' MPO opens as JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
_FACTOR = 28  # pixels of a merged patch of Qwen2-VL and GLM-4.1V: sides of so many are not resized again
_FOREIGN = {
    b"%PDF": "a PDF document",
    b"<svg": "an SVG drawing",
    b"8BPS": "a Photoshop file",
    b"%!PS": "a PostScript document",
}
_PAGE = (b"<!doctype", b"<html", b"<?xml", b"<head", b"{")

# What Pillow's decoders raise for damaged bytes.
_UNDECODABLE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)

# EXIF 2.32, tag 0x0112: what makes the stored picture upright.
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow only warns of is refused by `opened`, and broken metadata are no matter (see `orientation`).
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def rendered(data: bytes, notes: Sequence[str] = (), where: str = "a picture") -> Image.Image:
    """RGB, upright, at the size that the notes give. Raises BadInput `image_damaged` or `unsupported_format`."""
    with opened(data, where) as image:
        turn = TURNS.get(orientation(image, data))
        picture = _to_rgb(image)
        picture = picture.transpose(turn) if turn is not None else picture
        size = next((note.removeprefix("resize:") for note in notes if note.startswith("resize:")), "")
        if size:
            width, height = map(int, size.split("x"))
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        return picture


def open_image(data: bytes) -> Image.Image:
    """The picture as a model sees it, at its own size."""
    return rendered(data)


@contextmanager
def opened(data: bytes, where: str) -> Iterator[Image.Image]:
    """The picture, its header read. What Pillow raises in the block becomes BadInput with the reason and the place."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS or math.inf
            if image.width * image.height > limit:
                raise BadInput("image_damaged", f"{where} unpacks to {image.width} x {image.height} pixels: a bomb")
            yield image
    except UnidentifiedImageError as error:
        raise _unknown(data, where) from error
    except Image.DecompressionBombError as error:
        raise BadInput("image_damaged", f"{where} unpacks to too many pixels: {short(error)}") from error
    except _UNDECODABLE as error:
        raise BadInput("image_damaged", f"{where} does not decode: {short(error)}") from error


def orientation(image: Image.Image, data: bytes) -> int:
    """1 to 8; 1 where there is none, or where it cannot be read."""
    # Of a PNG without it, Pillow would decode all pixels to look behind them.
    if image.format == "PNG" and b"eXIf" not in data and b"tiff:Orientation" not in data:
        return 1
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, IndexError, AttributeError, OSError, EOFError, struct.error):
        return 1  # a broken EXIF block does not make the picture unusable; viewers show it as stored
    return value if value in TURNS else 1


def keyed(image: Image.Image) -> bool:
    """Whether one colour, or some of the palette, are transparent."""
    return "transparency" in image.info and image.mode in ("1", "L", "P", "RGB", "I;16")


def fit(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """The size a picture over `max_pixels` is shown at: as the models' processors compute it, so that they keep it."""
    shrink = math.sqrt(width * height / max_pixels)
    return tuple(max(_FACTOR, math.floor(side / shrink / _FACTOR) * _FACTOR) for side in (width, height))  # type: ignore[return-value]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.mode in ("I", "F"):
        return _from_range(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or keyed(image):
        coloured = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(coloured, mask=coloured.getchannel("A"))
        return white
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.uint16)
    # 65535 / 255 = 257; Pillow's own conversion would cut at 255, which makes nearly everything white.
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if keyed(image):
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")


def _from_range(image: Image.Image) -> Image.Image:
    """32-bit integers and floats have no agreed white: 65535 or 1.0 where that holds them all, or their own range."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    low, high = float(values.min()), float(values.max())
    white = 65_535.0 if image.mode == "I" else 1.0
    low, high = (0.0, white) if low >= 0 and high <= white else (low, high)
    grey = np.rint((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _unknown(data: bytes, where: str) -> BadInput:
    if not data:
        return BadInput("image_damaged", f"{where} is empty")
    start = data[:512].lstrip().lower()
    what = next((name for magic, name in _FOREIGN.items() if start.startswith(magic.lower())), "")
    what = "an SVG drawing" if b"<svg" in start else "a HEIC picture" if data[4:12] in _HEIC else what
    if what:
        return BadInput("unsupported_format", f"{where} is {what}; convert it to JPEG or PNG")
    if start.startswith(_PAGE):
        return BadInput(
            "image_damaged", f"{where} is a web page or a server's message, not a picture; download it again"
        )
    return BadInput("image_damaged", f"{where} does not decode: it is in no known picture format")


_HEIC = {b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"}
