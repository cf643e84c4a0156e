"""A tiny student, tiny media and a small cold_start table, for the tests of everything that runs a model."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from blake3 import blake3
from PIL import Image, ImageDraw

from umer1_core.backbone.model import Backbone, load_backbone
from umer1_core.miniature.student import build_student
from umer1_core.pairs import Media, Pair, Side, pair_id, side_record
from umer1_core.store import Store
from umer1_core.template import training_prompt, training_response

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "black": (20, 20, 20)}
PLACES = {"left": 20, "middle": 64, "right": 108}
QUERY, TARGET = "Find a caption that describes the given picture", "Represent the given text."


@cache
def small_student() -> Backbone:
    """Untrained; built once a process."""
    folder = Path(mkdtemp(prefix="umer1-student-"))
    prompts = [training_prompt(QUERY)] * 20
    build_student(folder, 0, [*prompts, *(training_response(f"It is {c}.", c) for c in COLOURS)])
    return load_backbone(str(folder))


def picture(folder: Path, colour: str, place: str = "middle", size: tuple[int, int] = (128, 128)) -> Media:
    image = Image.new("RGB", size, (250, 250, 245))
    x = PLACES[place]
    ImageDraw.Draw(image).ellipse((x - 18, 46, x + 18, 82), fill=COLOURS[colour])
    return _saved(folder / f"{colour}-{place}-{size[1]}.png", image)


def clip(folder: Path, colour: str, reverse: bool = False) -> Media:
    """Eight frames of a disc that crosses the picture."""
    place = folder / f"clip-{colour}-{reverse}"
    place.mkdir(parents=True, exist_ok=True)
    names, hashes = [f"{i}.png" for i in range(8)], []
    for i, name in enumerate(names):
        x = 6 * (7 - i if reverse else i)
        image = Image.new("RGB", (64, 64), (250, 250, 245))
        ImageDraw.Draw(image).ellipse((x, 22, x + 20, 42), fill=COLOURS[colour])
        hashes.append(_saved(place / name, image).content_hash)
    return Media("video", str(place), frames=tuple(names), content_hash=blake3("".join(hashes).encode()).hexdigest())


def small_pairs(folder: Path) -> list[Pair]:
    """Twelve pairs: a picture of a disc, and its caption."""
    return [
        Pair(
            pair_id("test/caption", f"{colour}-{place}"),
            "test/caption",
            "image",
            Side(QUERY, (picture(folder, colour, place),)),
            Side(f"A {colour} disc at the {place}."),
        )
        for colour in COLOURS
        for place in PLACES
    ]


def cold_start_store(folder: Path, pairs: list[Pair]) -> Store:
    """A store whose cold_start table holds the pairs with a plain annotation."""
    store = Store(str(folder / "data"))
    store.write_shard("cold_start", "00000", [cold_start_row(pair) for pair in pairs])
    return store


def cold_start_row(pair: Pair) -> dict[str, Any]:
    response = training_response("It shows a disc.", pair.target.text)
    return {
        "pair_id": pair.pair_id,
        "source": pair.source,
        "modality": pair.modality,
        "query_key": pair.query.key,
        "target_key": pair.target.key,
        "query_prompt": training_prompt(pair.query.text),
        "query_media": side_record(pair.query)["media"],
        "query_response": response,
        "target_prompt": training_prompt(pair.target.text),
        "target_media": side_record(pair.target)["media"],
        "target_response": response,
        "negatives": [],
    }


def _saved(path: Path, image: Image.Image) -> Media:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sink.getvalue())
    digest = blake3(sink.getvalue()).hexdigest()
    return Media("image", str(path), content_hash=digest, size=len(sink.getvalue()), width=image.width)
