"""What the order of sending and the asking once give: equal images together on the real vLLM, class names that repeat.

The order is that of the tables: `sides` keeps equal media together, the other way is a shuffle sent without affinity.
Every round has pictures of its own, so that no round finds another's in the server's caches.
"""

import random
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
from PIL import Image, ImageDraw

from schemas.recipe import Annotation, Ladder
from schemas.tables import PAIRS
from tests.bench.annotation import runs
from tests.bench.line import Line
from umer1_core.annotation.embedded import embedded_annotator
from umer1_core.media import describe
from umer1_core.pairs import Media, Side
from umer1_core.recipes import miniature_recipe
from umer1_core.sampling.sides import index_sides
from umer1_core.store import Store

_PICTURES, _SIDES_A_PICTURE, _EDGE, _ROUNDS = 24, 4, 448, 2
# Subsets of MMEB-train whose targets are class names: pairs drawn (at most 50,000) and classes.
_CLASSES = {
    "ImageNet_1K": (50_000, 1_000),
    "N24News": (49_000, 24),
    "SUN397": (19_850, 397),
    "HatefulMemes": (8_500, 2),
    "VOC2007": (7_850, 20),
}


def lines() -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as folder:
        asked, uses = _asked_once(folder)
        yield Line("annotation: generations, MMEB's class names", asked, uses, "sides", "one a use", 0.6, False)
        recipe = miniature_recipe().annotation
        completion = recipe.completion.model_copy(update={"max_tokens": 24})
        # As many tokens a picture as half a megapixel has with GLM-4.1V; the teacher itself is content with 12.
        size = orjson.dumps({"size": {"shortest_edge": 2_048, "longest_edge": 2 * _EDGE**2}}).decode()
        large = recipe.embedded.model_copy(update={"arguments": ["--mm-processor-kwargs", size]})
        same = {"embedded": large, "completion": completion, "concurrency": 32, "ladder": Ladder(attempts=1)}
        annotation = recipe.model_copy(update=same)
        with embedded_annotator(annotation, Path(folder) / "vllm.log") as endpoints:
            together, mixed = _compare(Path(folder), annotation.model_copy(update={"endpoints": endpoints}))
    yield Line("annotation: equal images together, real vLLM", together, mixed, "rows/s", "shuffled", 1.2, True)


def _compare(folder: Path, annotation: Annotation) -> tuple[float, float]:
    rates: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * _ROUNDS + 1):
        together = number % 2 == 0
        sides = _sides(folder, number)
        if not together:
            random.Random(number).shuffle(sides)
        store = runs.write_sides(str(folder / f"round {number}"), sides)
        rate = runs.ours(store, annotation.model_copy(update={"affinity": together})).rate
        if number:  # the first is the server's warm-up
            rates[together].append(rate)
    return statistics.median(rates[True]), statistics.median(rates[False])


def _sides(folder: Path, number: int) -> list[Side]:
    """Questions about pictures, the questions about a picture next to each other."""
    noise = np.random.default_rng(number)
    sides = []
    for i in range(_PICTURES):
        path = folder / f"{number}-{i}.jpg"
        picture = Image.fromarray(noise.integers(200, 256, (_EDGE, _EDGE, 3), dtype=np.uint8))
        ImageDraw.Draw(picture).ellipse((60, 60, 380, 380), fill=tuple(noise.integers(0, 200, 3).tolist()))
        picture.save(path, quality=90)
        media = describe(Media("image", str(path)))
        sides += [Side(f"question {j} about picture {i}", (media,)) for j in range(_SIDES_A_PICTURE)]
    return sides


def _asked_once(folder: str) -> tuple[float, float]:
    """Distinct sides, and the places they stand in, of the subsets at full size: every image is another."""
    store = Store(f"{folder}/mix")
    for name, (pairs, classes) in _CLASSES.items():
        rows = [_pair(name, i, f"{name} class {i % classes}") for i in range(pairs)]
        store.write_shard("pairs", name, pa.Table.from_pylist(rows, schema=PAIRS))
    entries = index_sides(store, 8_192, 0)
    uses = sum(sum(store.read_shard("sides", entry.shard, ["uses"])["uses"].to_pylist()) for entry in entries)
    return float(sum(entry.rows for entry in entries)), float(uses)


def _pair(name: str, i: int, target: str) -> dict[str, object]:
    media = {"kind": "image", "uri": f"images/{name}/{i}.jpg", "member": "", "frames": [], "content_hash": f"{name}{i}"}
    query = {"text": "Represent the image.", "media": [media | {"size": 1, "width": 1, "height": 1}]}
    return {
        "pair_id": f"{name}-{i}",
        "source": f"mmeb/{name}",
        "modality": "image",
        "query_key": f"{name}-{i}",
        "target_key": Side(target).key,
        "query": query,
        "target": {"text": target, "media": []},
        "negatives": [],
    }
