"""Small sides tables for annotation tests."""

from pathlib import Path

from schemas.recipe import Annotation
from umer1_core.pairs import Side
from umer1_core.store import Store


def text_sides(folder: Path, texts: list[str], shard: str = "00000") -> Store:
    store = Store(str(folder))
    rows = [
        {"side_key": Side(t).key, "source": "own/x", "modality": "image", "uses": 1, "text": t, "media": []}
        for t in texts
    ]
    store.write_shard("sides", shard, rows)
    return store


def settings(address: str, **changes: object) -> Annotation:
    return Annotation.model_validate({"model": "stand-in", "endpoints": [f"{address}/v1"]} | changes)
