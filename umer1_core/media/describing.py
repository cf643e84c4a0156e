"""`describe`: what a Media points to is opened, verified and hashed, and what will be done to it is noted."""

from __future__ import annotations

from dataclasses import replace

from blake3 import blake3
from PIL import Image

from schemas.sources import MediaRules
from umer1_core.errors import BadInput
from umer1_core.media.paths import is_video_file
from umer1_core.media.reading import read_frames, read_image
from umer1_core.media.rendering import TURNS, fit, keyed, opened, orientation
from umer1_core.media.video import COUNT, decode_frames
from umer1_core.pairs import Media

_PLAIN_FORMATS = {"JPEG", "PNG", "WEBP", "MPO"}
_PLAIN_MODES = {"RGB", "L"}
_RULES = MediaRules()


def describe(media: Media, rules: MediaRules = _RULES) -> Media:
    """Fill in hash, size, dimensions, notes, and the frames of a video file.

    Raises BadInput when what it points to is missing, damaged or outside the rules: media_missing, media_unreadable,
    media_changed, archive_damaged, path_outside_root, image_damaged, unsupported_format, aspect_ratio,
    clip_without_frames, frame_damaged, frames_differ, video_damaged, no_video_decoder.
    """
    if media.kind == "image":
        data = read_image(media)
        width, height, notes = look(data, media.where, rules)
        digest, size = blake3(data).hexdigest(), len(data)
    elif is_video_file(media.member or media.uri):
        data = read_image(media)
        numbers, frames = decode_frames(data, media.frames, media.where)
        media = replace(media, frames=numbers)
        width, height, notes = _look_at_frames(frames, media, rules)
        notes += (f"frames:{len(frames)}",) if len(frames) > COUNT else ()
        digest, size = blake3(data).hexdigest(), len(data)
    else:
        frames = read_frames(media)
        width, height, notes = _look_at_frames(frames, media, rules)
        digest = blake3("".join(blake3(frame).hexdigest() for frame in frames).encode()).hexdigest()
        size = sum(map(len, frames))
    return replace(media, content_hash=digest, size=size, width=width, height=height, notes=notes)


def look(data: bytes, where: str, rules: MediaRules) -> tuple[int, int, tuple[str, ...]]:
    """Upright width and height, and the notes. Raises BadInput for a damaged picture or one outside the rules."""
    with opened(data, where) as image:
        notes = _notes(image, data)
        width, height = image.size
        if rules.verify == "decode" or not _complete(data, image.format):
            image.load()
    if max(width, height) > rules.max_aspect * min(width, height):
        raise BadInput("aspect_ratio", f"{where} is {width} x {height}, longer than {rules.max_aspect:g} to 1")
    if notes and notes[0] in _ON_THEIR_SIDE:
        width, height = height, width
    if width * height > rules.max_pixels:
        notes.append("resize:{}x{}".format(*fit(width, height, rules.max_pixels)))
    return width, height, tuple(notes)


_ON_THEIR_SIDE = {f"orientation:{turn}" for turn in (5, 6, 7, 8)}


def _notes(image: Image.Image, data: bytes) -> list[str]:
    notes = []
    if (turn := orientation(image, data)) in TURNS:
        notes.append(f"orientation:{turn}")
    if image.mode not in _PLAIN_MODES:
        notes.append(f"mode:{image.mode}")
    if keyed(image):
        notes.append("alpha:key")
    # A phone's JPEG with a depth map beside it counts as two pictures for Pillow (MPO), and is none for a person.
    count = 1 if image.format in ("JPEG", "MPO", "ICO") else int(getattr(image, "n_frames", 1))
    if count > 1:
        notes.append(f"animation:{count}")
    if image.format not in _PLAIN_FORMATS:
        notes.append(f"format:{image.format}")
    return notes


def _look_at_frames(frames: list[bytes], media: Media, rules: MediaRules) -> tuple[int, int, tuple[str, ...]]:
    sizes: dict[tuple[int, int], str] = {}
    notes: dict[str, None] = {}
    for name, frame in zip(media.frames, frames, strict=True):
        try:
            width, height, its = look(frame, f"frame {name} of {media.where}", rules)
        except BadInput as error:
            reason = "frame_damaged" if error.reason == "image_damaged" else error.reason
            raise BadInput(reason, error.detail) from error
        sizes.setdefault((width, height), name)
        notes |= dict.fromkeys(its)
    if len(sizes) > 1:
        found = ", ".join(f"{name} is {width} x {height}" for (width, height), name in sizes.items())
        raise BadInput("frames_differ", f"the frames of {media.where} differ in size: {found}"[:400])
    (width, height), _ = next(iter(sizes.items()))
    return width, height, tuple(notes)


def _complete(data: bytes, kind: str | None) -> bool:
    """Whether the end of the file is what it must be; where that cannot be told, the pixels are decoded instead."""
    if kind in ("JPEG", "MPO"):
        return data[-2:] == b"\xff\xd9"
    if kind == "PNG":
        return b"IEND" in data[-12:]
    if kind == "WEBP":
        return len(data) >= int.from_bytes(data[4:8], "little") + 8
    return kind == "GIF" and data[-1:] == b";"
