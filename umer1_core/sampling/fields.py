"""Rows whose query and target have the fields `text`, `image` and `video`: checked, keyed, and turned into RawRows.

What own data, mapped data sets and released data have in common. A media field holds a path, a list of paths, or a
`Cell`. The reference of a side is a short JSON list: the folder that its paths are relative to (empty: the layout's
own), then an item for each picture or clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import orjson

from umer1_core.errors import BadInput
from umer1_core.media import is_video_file
from umer1_core.pairs import Media, Modality
from umer1_core.sampling.cells import cell_media
from umer1_core.sampling.finding import Finder
from umer1_core.sampling.places import Place
from umer1_core.sampling.rows import RawSide

AskedModality = Modality | Literal["auto"]


@dataclass(frozen=True, slots=True)
class Cell:
    """An image that is a cell of Parquet: its file, `column#row`, and what tells it apart wherever the file lies."""

    uri: str
    member: str
    key: str


@dataclass(frozen=True, slots=True)
class Reading:
    """A side as read, its part of the row's key, and whether it shows a clip."""

    side: RawSide
    key: str
    clip: bool

    @property
    def empty(self) -> bool:
        return self.side.empty


def read_side(fields: Mapping[str, Any], name: str, row: str, instruction: str = "", base: str = "") -> Reading:
    """A side of its fields; an instruction alone is no side. Raises BadInput with field and row where one is not right.

    name: of the side, for messages (`query`); row: where it stands (`row 3 of pairs.jsonl`).
    """
    text = _text(fields.get("text"), f"{name}.text of {row}").strip()
    images = _media(fields.get("image"), f"{name}.image of {row}")
    frames = _media(fields.get("video"), f"{name}.video of {row}")
    if any(isinstance(frame, Cell) for frame in frames):
        raise BadInput("bad_field", f"{name}.video of {row} holds bytes; expected a path or the paths of frames")
    items: list[list[str]] = []
    for image in images:
        items.append(["cell", image.uri, image.member] if isinstance(image, Cell) else ["image", image])
    if frames:
        items.append(_clip([str(frame) for frame in frames], isinstance(fields.get("video"), str)))
    key = "\x1e".join([text, *(image.key if isinstance(image, Cell) else image for image in images), *map(str, frames)])
    reference = orjson.dumps([base, *items]).decode() if items else ""
    shown = instructed(instruction, text) if text or items else ""
    field = next((f"{name}.{kind}" for kind, there in (("image", images), ("video", frames)) if there), f"{name}.text")
    return Reading(RawSide(shown, reference, field), key, bool(frames))


def instructed(instruction: str, text: str) -> str:
    """The instruction before the text, with a space between them where it ends without one."""
    if instruction and text and not instruction[-1].isspace():
        return f"{instruction} {text}"
    return (instruction + text).strip()


def modality_of(asked: AskedModality, *sides: Reading) -> Modality:
    """`asked`, where that is auto: video where a side shows a clip, otherwise image."""
    if asked != "auto":
        return asked
    return "video" if any(side.clip for side in sides) else "image"


def locate(reference: str, finder: Finder) -> tuple[Media, ...]:
    """The media of a reference that `read_side` made."""
    base, *items = orjson.loads(reference)
    finder = _beside(base, finder.frames) if base else finder
    return tuple(_item(finder, *item) for item in items)


def container(reference: str, finder: Finder) -> tuple[str, int]:
    """Where the first of its media must be read in stored order."""
    base, (kind, path, *more), *_ = orjson.loads(reference)
    if kind == "cell":
        return path, int(more[0].rpartition("#")[2])
    finder = _beside(base, finder.frames) if base else finder
    return finder.container(path) if kind == "image" else ("", 0)


def _item(finder: Finder, kind: str, path: str, *more: str) -> Media:
    if kind == "cell":
        return cell_media(path, more[0])
    if kind == "image":
        return finder.image(path)
    return finder.clip(path) if kind == "clip" else finder.clip_of([path, *more])


@lru_cache(maxsize=64)
def _beside(folder: str, frames: int) -> Finder:
    return Finder(Place(folder), frames)


def _clip(paths: list[str], single: bool) -> list[str]:
    if len(paths) == 1 and (single or is_video_file(paths[0])):
        return ["clip", paths[0]]
    return ["frames", *paths]


def _text(value: Any, where: str) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    raise BadInput("bad_field", f"{where} is {type(value).__name__}; expected text")


def _media(value: Any, where: str) -> Sequence[str | Cell]:
    values = value if isinstance(value, list) else [value]
    for each in values:
        if not (each is None or isinstance(each, str | Cell)):
            raise BadInput("bad_field", f"{where} is {type(each).__name__}; expected a path or a list of paths")
    stripped = (each.strip() if isinstance(each, str) else each for each in values)
    return [each for each in stripped if each]
