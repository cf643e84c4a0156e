"""Pictures of the world: anti-aliased sprites with a dark outline on light ground, four times the model's input size.

Guarantee: the pixels depend on the picture and the random state handed in, and on nothing else.
Input sizes: scenes 32 x 32, pages 32 x 48, frames 32 x 32 (drawn at twice that); see shared/reference/miniature.md.
"""

from __future__ import annotations

import io
import math
import random
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from umer1_core.miniature.world import COLOURS, PLACES, TOPICS, Clip, Page, Picture, Scene

UNIT = 32
SCALE = 4
CLIP_SCALE = 2

RGB = {
    "red": (220, 30, 35),
    "orange": (250, 135, 15),
    "yellow": (250, 225, 40),
    "green": (40, 160, 55),
    "cyan": (60, 210, 225),
    "blue": (35, 70, 215),
    "purple": (150, 50, 175),
    "black": (45, 45, 45),
}
TOPIC_COLOUR = dict(zip(TOPICS, COLOURS, strict=True))
_DIAMETER = {"small": 8, "large": 14}
_CELL_DIAMETER = 10
_OVERSAMPLE = 4
_OUTLINE = (25, 25, 25)


def render_image(picture: Scene | Page, rng: random.Random, scale: int = SCALE) -> Image.Image:
    """A scene or a page as a person would see it."""
    return _render_page(picture, rng, scale) if isinstance(picture, Page) else _render_scene(picture, rng, scale)


def render_frames(clip: Clip, rng: random.Random, count: int = 8, scale: int = CLIP_SCALE) -> list[Image.Image]:
    """The frames of a clip: the thing crosses the picture evenly, from edge to edge."""
    ground, jitter, lane_shift = _ground(rng), rng.randrange(3), rng.uniform(-1, 1)
    start, end = 8 + rng.uniform(-1, 1), UNIT - 8 + rng.uniform(-1, 1)
    if clip.direction in ("leftwards", "upwards"):
        start, end = end, start
    across = (8 if clip.lane in ("upper half", "left half") else UNIT - 8) + lane_shift
    frames = []
    for index in range(count):
        along = start + (end - start) * (index / max(1, count - 1))
        centre = (along, across) if clip.direction in ("leftwards", "rightwards") else (across, along)
        frame = Image.new("RGB", (UNIT * scale, UNIT * scale), ground)
        _paste(frame, _sprite(clip.colour, clip.shape, _DIAMETER[clip.size] * scale, jitter), centre, scale)
        frames.append(frame)
    return frames


def render_media(picture: Picture, rng: random.Random, frames: int = 8) -> list[Image.Image]:
    """One image, or the frames of a clip."""
    return render_frames(picture, rng, frames) if isinstance(picture, Clip) else [render_image(picture, rng)]


def jpeg(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=92)
    return sink.getvalue()


def png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG", compress_level=1)
    return sink.getvalue()


# -- drawing ---------------------------------------------------------------------------------------------------------


def _render_scene(scene: Scene, rng: random.Random, scale: int) -> Image.Image:
    image = Image.new("RGB", (UNIT * scale, UNIT * scale), _ground(rng))
    for thing in scene.things:
        row, column = divmod(PLACES.index(thing.place), 2)
        centre = (8 + 16 * column + rng.uniform(-1, 1), 8 + 16 * row + rng.uniform(-1, 1))
        _paste(
            image, _sprite(thing.colour, thing.shape, _DIAMETER[thing.size] * scale, rng.randrange(3)), centre, scale
        )
    return image


def _render_page(page: Page, rng: random.Random, scale: int) -> Image.Image:
    width, height = UNIT * scale, (UNIT + 16) * scale
    image = Image.new("RGB", (width, height), _ground(rng))
    draw = ImageDraw.Draw(image)
    draw.rectangle((2 * scale, 2 * scale, width - 2 * scale - 1, 13 * scale), fill=RGB[TOPIC_COLOUR[page.topic]])
    font = ImageFont.load_default(size=6 * scale)
    draw.text((width / 2, 7.5 * scale), page.topic, fill="white", font=font, anchor="mm")
    for cell in page.cells:
        left, top = 16 * (cell.slot % 2), 16 + 16 * (cell.slot // 2)
        box = (left * scale + 2, top * scale + 2, (left + 16) * scale - 3, (top + 16) * scale - 3)
        draw.rectangle(box, outline=(150, 150, 150), width=max(1, scale // 4))
        _paste(
            image,
            _sprite(cell.colour, cell.shape, _CELL_DIAMETER * scale, rng.randrange(3)),
            (left + 8, top + 6),
            scale,
        )
        for tick in range(int(cell.value)):
            x, y = (left + 1.25 + 3.5 * tick) * scale, (top + 11.5) * scale
            draw.rectangle((x, y, x + 2.5 * scale - 1, y + 3 * scale - 1), fill=_OUTLINE)
    return image


def _ground(rng: random.Random) -> tuple[int, int, int]:
    shade = rng.randint(225, 250)
    return shade, shade + rng.randint(-4, 4), shade + rng.randint(-4, 4)


def _paste(image: Image.Image, sprite: Image.Image, centre: tuple[float, float], scale: int) -> None:
    half = sprite.width / 2
    image.paste(sprite, (round(centre[0] * scale - half), round(centre[1] * scale - half)), sprite)


@lru_cache(maxsize=4096)
def _sprite(colour: str, shape: str, diameter: int, jitter: int) -> Image.Image:
    """One shape with its outline, drawn large and scaled down; `jitter` picks one of three shades."""
    side = diameter * _OVERSAMPLE
    fill = tuple(max(0, min(255, channel + (jitter - 1) * 10)) for channel in RGB[colour])
    image = Image.new("RGBA", (side, side), (*fill, 0))
    outline = max(2, side // 14)
    points = _outline(shape, side)
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse((1, 1, side - 2, side - 2), fill=(*fill, 255), outline=(*_OUTLINE, 255), width=outline)
    else:
        draw.polygon(points, fill=(*fill, 255))
        draw.line([*points, points[0], points[1]], fill=(*_OUTLINE, 255), width=outline, joint="curve")
    return image.resize((diameter, diameter), Image.Resampling.LANCZOS)


def _outline(shape: str, side: int) -> list[tuple[float, float]]:
    """The corners of a shape inside a square of that side."""
    corners: dict[str, list[tuple[float, float]]] = {
        "circle": [],
        "square": [(0.08, 0.08), (0.92, 0.08), (0.92, 0.92), (0.08, 0.92)],
        "triangle": [(0.5, 0.04), (0.97, 0.94), (0.03, 0.94)],
        "diamond": [(0.5, 0.02), (0.86, 0.5), (0.5, 0.98), (0.14, 0.5)],
        "cross": [(a / 100, b / 100) for a, b in _CROSS],
        "star": [
            (0.5 + r * math.sin(k * math.pi / 5), 0.53 - r * math.cos(k * math.pi / 5))
            for k, r in ((k, 0.52 if k % 2 == 0 else 0.2) for k in range(10))
        ],
    }
    return [(x * (side - 1), y * (side - 1)) for x, y in corners[shape]]


_CROSS = (
    (34, 3), (66, 3), (66, 34), (97, 34), (97, 66), (66, 66), (66, 97), (34, 97), (34, 66), (3, 66), (3, 34), (34, 34),
)  # fmt: skip
