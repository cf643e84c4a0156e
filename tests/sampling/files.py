"""Tiny data sets in the upstream layouts, written with real files."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from schemas.sources import LlavaHoundSource, MmebSource
from umer1_core.sampling import SourceSpec, list_sources
from umer1_core.store import Store


def jpeg(color: int = 0) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (16, 8), (color % 256, 90, 30)).save(sink, "JPEG")
    return sink.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


@pytest.fixture
def mmeb(tmp_path: Path) -> Callable[..., MmebSource]:
    """Write a subset of rows given as dicts; images 0.jpg to 9.jpg are there."""

    def write(rows: list[dict], subset: str = "OK-VQA", **settings: object) -> MmebSource:
        root = tmp_path / "mmeb"
        for number in range(10):
            path = root / f"images/{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(number * 20))
        blank = {"qry": "", "qry_image_path": "", "pos_text": "", "pos_image_path": ""}
        (root / subset).mkdir(exist_ok=True)
        pq.write_table(
            pa.Table.from_pylist([blank | row for row in rows]), root / subset / "original-00000-of-00001.parquet"
        )
        return MmebSource(root=str(root), **settings)

    return write


@pytest.fixture
def hound(tmp_path: Path) -> LlavaHoundSource:
    """Clips `folder` (12 frames, no leading zeros), `empty` (no frames) and `tarred` (3 frames in chunk_0.tar.gz)."""
    root = tmp_path / "hound"
    clips, texts = root / "train_300k", root / "video_instruction/train/sft"
    for folder in (clips / "folder", clips / "empty", texts):
        folder.mkdir(parents=True)
    for number in range(12):
        (clips / "folder" / f"c01_{number + 1}.jpeg").write_bytes(jpeg(number))
    with tarfile.open(clips / "chunk_0.tar.gz", "w:gz") as tar:
        for number in range(3):
            member = tarfile.TarInfo(f"tarred/c01_000{number + 1}.jpeg")
            member.size = len(jpeg(100 + number))
            tar.addfile(member, io.BytesIO(jpeg(100 + number)))
    write_lines(root, [turn("folder"), turn("tarred"), turn("folder", "And then?", "It stops.")])
    return LlavaHoundSource(root=str(root))


def turn(video: str, said: str = "What moves?", answered: str = "A car.") -> dict:
    said = f"<video>\n{said}" if said else said
    values = [{"from": "human", "value": said}, {"from": "gpt", "value": answered}]
    return {"id": video, "video": video, "conversations": values}


def write_lines(root: Path, records: list[dict | str]) -> None:
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)
    for name in ("video_caption_300k.jsonl", "video_240k_caption_15k.jsonl"):
        (root / "video_instruction/train/sft" / name).write_text(text)


def write_cells(root: Path, rows: list[dict]) -> None:
    (root / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), root / "data/train-00000-of-00001.parquet", row_group_size=2)


def only(*sources: object) -> SourceSpec:
    (spec,) = list_sources(sources)
    return spec
