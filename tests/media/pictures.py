"""Pictures and clips that a test makes: small, and coloured so that what was done to them can be seen."""

import io
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
QUARTERS = np.array([[[220, 30, 30], [30, 200, 30]], [[30, 30, 220], [230, 220, 40]]], dtype=np.uint8)


def quarters(width: int = 40, height: int = 24) -> Image.Image:
    """Red and green above blue and yellow: no turn or flip leaves it as it is."""
    return Image.fromarray(QUARTERS).resize((width, height), Image.Resampling.NEAREST)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def jpeg(width: int = 40, height: int = 24, **options: object) -> bytes:
    return encoded(quarters(width, height), "JPEG", **{"quality": 95, **options})


def turned_jpeg(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return jpeg(exif=exif)


def shade_jpeg(value: int) -> bytes:
    """One grey, so that a frame says which it is."""
    return encoded(Image.new("RGB", (32, 32), (value, value, value)), "JPEG", quality=95)


def movie(frames: Sequence[bytes], durations: Sequence[int] = (), handler: bytes = b"vide") -> bytes:
    """A QuickTime file of JPEG frames. `durations`, one a frame, may differ: a variable frame rate."""
    durations = durations or [1] * len(frames)
    head = _atom(b"ftyp", b"qt  \0\0\2\0qt  ")
    start = len(head) + 8
    offsets = [start + sum(map(len, frames[:i])) for i in range(len(frames))]
    return head + _atom(b"mdat", b"".join(frames)) + _movie_header(frames, durations, offsets, handler)


def _movie_header(frames: Sequence[bytes], durations: Sequence[int], offsets: list[int], handler: bytes) -> bytes:
    matrix = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    total = sum(durations)
    if handler == b"vide":
        entry = struct.pack(">6xH16xHHII4xH32sHh", 1, 32, 32, 0x480000, 0x480000, 1, b"\0" * 32, 24, -1)
        entry, kind = _atom(b"jpeg", entry), _atom(b"vmhd", struct.pack(">I4H", 1, 0, 0, 0, 0))
    else:
        entry = _atom(b"sowt", struct.pack(">6xH8xHHHHI", 1, 1, 16, 0, 0, 8_000 << 16))
        kind = _atom(b"smhd", bytes(8))
    table = b"".join(
        (
            _atom(b"stsd", struct.pack(">II", 0, 1) + entry),
            _atom(
                b"stts", struct.pack(">II", 0, len(durations)) + b"".join(struct.pack(">II", 1, d) for d in durations)
            ),
            _atom(b"stsc", struct.pack(">II3I", 0, 1, 1, 1, 1)),
            _atom(
                b"stsz", struct.pack(">III", 0, 0, len(frames)) + b"".join(struct.pack(">I", len(f)) for f in frames)
            ),
            _atom(b"stco", struct.pack(">II", 0, len(frames)) + b"".join(struct.pack(">I", o) for o in offsets)),
        )
    )
    references = _atom(b"dinf", _atom(b"dref", struct.pack(">II", 0, 1) + _atom(b"url ", struct.pack(">I", 1))))
    media = b"".join(
        (
            _atom(b"mdhd", struct.pack(">IIIII4x", 0, 0, 0, 10, total)),
            _atom(b"hdlr", struct.pack(">I4s4s12xB", 0, b"mhlr", handler, 0)),
            _atom(b"minf", kind + references + _atom(b"stbl", table)),
        )
    )
    track = _atom(
        b"tkhd",
        struct.pack(">IIIII I", 7, 0, 0, 1, 0, total) + bytes(16) + matrix + struct.pack(">II", 32 << 16, 32 << 16),
    )
    header = _atom(
        b"mvhd",
        struct.pack(">IIIIIIH10x", 0, 0, 0, 10, total, 0x10000, 0x100) + matrix + bytes(24) + struct.pack(">I", 2),
    )
    return _atom(b"moov", header + _atom(b"trak", track + _atom(b"mdia", media)))


def _atom(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body) + 8, kind) + body
