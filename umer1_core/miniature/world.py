"""A world of coloured shapes whose every attribute is known: scenes, clips and document pages.

Guarantee: the unit of the hold-out is the whole combination of four attributes (colour, shape, size, place of a thing;
colour, shape, size, direction of a clip; topic, colour, shape, value of a page's cell). Each combination belongs to
exactly one split, whatever picture, page, clip or text it stands in, and every draw is filtered after its last change.
`dev` is for looking at; `heldout` is only ever measured.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Literal

from blake3 import blake3

Split = Literal["train", "dev", "heldout"]

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "black")
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
SIZES = ("small", "large")
PLACES = ("top left", "top right", "bottom left", "bottom right")
DIRECTIONS = ("leftwards", "rightwards", "upwards", "downwards")
LANES = {
    "leftwards": ("upper half", "lower half"),
    "rightwards": ("upper half", "lower half"),
    "upwards": ("left half", "right half"),
    "downwards": ("left half", "right half"),
}
TOPICS = ("sales", "harvest", "solar", "forest", "weather", "ocean", "music", "energy")
VALUES = ("1", "2", "3", "4")

_HALVES = ("upper half", "lower half", "left half", "right half")
ATTRIBUTE_WORDS = (*COLOURS, *SHAPES, *SIZES, *PLACES, *DIRECTIONS, *TOPICS, *VALUES, *_HALVES)

_HELDOUT_PERCENT, _DEV_PERCENT = 14, 6


@dataclass(frozen=True, slots=True)
class Thing:
    colour: str
    shape: str
    size: str
    place: str


@dataclass(frozen=True, slots=True)
class Scene:
    """One to three things, in reading order, no two of one colour or in one place."""

    things: tuple[Thing, ...]


@dataclass(frozen=True, slots=True)
class Clip:
    """One thing that crosses the picture; the lane is the half it keeps to."""

    colour: str
    shape: str
    size: str
    direction: str
    lane: str


@dataclass(frozen=True, slots=True)
class Cell:
    colour: str
    shape: str
    value: str
    slot: int


@dataclass(frozen=True, slots=True)
class Page:
    """A title bar, whose colour goes with the topic, over two or three cells in a two by two table."""

    topic: str
    cells: tuple[Cell, ...]


Picture = Scene | Clip | Page


def split_of(*combination: str) -> Split:
    """The split a combination of four attributes belongs to, by its hash."""
    bucket = int.from_bytes(blake3("\x1f".join(combination).encode()).digest()[:4], "big") % 100
    if bucket < _HELDOUT_PERCENT:
        return "heldout"
    return "dev" if bucket < _HELDOUT_PERCENT + _DEV_PERCENT else "train"


@lru_cache(maxsize=8)
def things_of(split: Split) -> tuple[Thing, ...]:
    every = product(COLOURS, SHAPES, SIZES, PLACES)
    return tuple(Thing(*names) for names in every if split_of("thing", *names) == split)


@lru_cache(maxsize=8)
def clips_of(split: Split) -> tuple[Clip, ...]:
    every = product(COLOURS, SHAPES, SIZES, DIRECTIONS)
    return tuple(Clip(*names, lane) for names in every if split_of("clip", *names) == split for lane in LANES[names[3]])


@lru_cache(maxsize=32)
def cells_of(split: Split, topic: str) -> tuple[Cell, ...]:
    every = product(COLOURS, SHAPES, VALUES)
    return tuple(Cell(*names, 0) for names in every if split_of("cell", topic, *names) == split)


def draw_scene(rng: random.Random, split: Split, most: int = 3) -> Scene:
    """A scene of at most `most` things, all of them of the split."""
    count = min(most, rng.choices((1, 2, 3), (30, 40, 30))[0])
    while True:
        scene = arrange(rng.sample(things_of(split), count))
        if _distinct(scene):
            return scene


def change_scene(rng: random.Random, split: Split, scene: Scene) -> tuple[Thing, Thing, Scene] | None:
    """Change one attribute of one thing and stay inside the split: (before, after, new scene), or None if stuck."""
    index = rng.randrange(len(scene.things))
    before = scene.things[index]
    others = scene.things[:index] + scene.things[index + 1 :]
    options = [t for t in things_of(split) if differences(before, t) == 1 and _distinct(Scene((*others, t)))]
    if not options:
        return None
    after = rng.choice(options)
    return before, after, arrange([*others, after])


def draw_clip(rng: random.Random, split: Split) -> Clip:
    return rng.choice(clips_of(split))


def draw_page(rng: random.Random, split: Split) -> Page:
    """A page of two or three cells of different colours."""
    topic, count = rng.choice(TOPICS), rng.choice((2, 3))
    pool = cells_of(split, topic)
    while True:
        cells = rng.sample(pool, min(count, len(pool)))
        if len({c.colour for c in cells}) == len(cells):
            slots = sorted(rng.sample(range(4), len(cells)))
            return Page(topic, tuple(replace(c, slot=s) for c, s in zip(cells, slots, strict=True)))


def differences(a: Thing, b: Thing) -> int:
    return (a.colour != b.colour) + (a.shape != b.shape) + (a.size != b.size) + (a.place != b.place)


def arrange(things: list[Thing]) -> Scene:
    """In reading order."""
    return Scene(tuple(sorted(things, key=lambda t: PLACES.index(t.place))))


def _distinct(scene: Scene) -> bool:
    count = len(scene.things)
    return len({t.colour for t in scene.things}) == count and len({t.place for t in scene.things}) == count
