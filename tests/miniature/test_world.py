"""The world is deterministic, its splits share no combination, and what it writes lies as upstream's data does."""

from __future__ import annotations

import json
import random
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from blake3 import blake3

from umer1_core.miniature.instructions import IMAGE_TOKEN
from umer1_core.miniature.layouts import write_world
from umer1_core.miniature.samples import PAIR_MAKERS, PairSample, draw_pair, named_attributes
from umer1_core.miniature.world import (
    COLOURS,
    DIRECTIONS,
    PLACES,
    SHAPES,
    SIZES,
    Clip,
    Page,
    Picture,
    Scene,
    Split,
    split_of,
)

SAMPLE = Path(__file__).parents[2].parent / "shared/sample"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_world(root, 200, 3, "train")
    return root


def _digests(root: Path) -> dict[str, str]:
    files = (p for p in sorted(root.rglob("*")) if p.is_file() and p.suffix != ".gz")
    return {str(p.relative_to(root)): blake3(p.read_bytes()).hexdigest() for p in files}


def _splits_in(picture: Picture) -> set[Split]:
    """The splits of everything a picture holds; one element when it is clean."""
    if isinstance(picture, Clip):
        return {split_of("clip", picture.colour, picture.shape, picture.size, picture.direction)}
    if isinstance(picture, Page):
        return {split_of("cell", picture.topic, c.colour, c.shape, c.value) for c in picture.cells}
    return {split_of("thing", t.colour, t.shape, t.size, t.place) for t in picture.things}


def test_the_same_seed_writes_the_same_bytes(world: Path, tmp_path: Path) -> None:
    write_world(tmp_path, 200, 3, "train")
    assert _digests(tmp_path) == _digests(world)


def test_another_seed_writes_another_world(world: Path, tmp_path: Path) -> None:
    write_world(tmp_path, 200, 4, "train")
    assert _digests(tmp_path)["truth.parquet"] != _digests(world)["truth.parquet"]


@pytest.mark.parametrize("split", ["train", "dev", "heldout"])
@pytest.mark.parametrize("source", PAIR_MAKERS)
def test_every_picture_of_a_pair_belongs_to_its_split(source: str, split: str) -> None:
    rng = random.Random(5)
    pairs = [draw_pair(rng, split, source) for _ in range(100)]  # type: ignore[arg-type]
    pictures = [side.picture for pair in pairs for side in (pair.query, pair.target) if side.picture is not None]
    assert pictures, "a source without pictures would prove nothing"
    assert set().union(*(_splits_in(p) for p in pictures)) == {split}


def test_the_splits_divide_every_combination_and_hold_enough_of_each() -> None:
    things = [("thing", c, s, z, p) for c in COLOURS for s in SHAPES for z in SIZES for p in PLACES]
    clips = [("clip", c, s, z, d) for c in COLOURS for s in SHAPES for z in SIZES for d in DIRECTIONS]
    for every in (things, clips):
        held = [split_of(*names) for names in every]
        assert 0.08 < held.count("heldout") / len(held) < 0.22
        assert 0.02 < held.count("dev") / len(held) < 0.12


def test_captions_of_heldout_pictures_never_occur_in_training() -> None:
    rng = random.Random(6)

    def summaries(split: str) -> set[str]:
        sources = ("mmeb/MSCOCO_t2i", "mmeb/CIRR", "llava_hound/video_retrieval", "visrag")
        pairs: list[PairSample] = [draw_pair(rng, split, s) for s in sources for _ in range(300)]  # type: ignore[arg-type]
        return {side.summary for pair in pairs for side in (pair.query, pair.target)}

    assert not summaries("train") & summaries("heldout")


def test_a_cirr_pair_changes_one_attribute_and_its_query_describes_the_target() -> None:
    rng = random.Random(7)
    for _ in range(50):
        pair = draw_pair(rng, "heldout", "mmeb/CIRR")
        before, after = pair.query.picture, pair.target.picture
        assert isinstance(before, Scene) and isinstance(after, Scene)
        assert len(set(before.things) ^ set(after.things)) == 2
        assert pair.query.attributes == pair.target.attributes


def test_attribute_words_are_read_in_order_and_places_count_as_one() -> None:
    text = "A large red circle at the top left moves leftwards in the upper half; value 3."
    assert named_attributes(text) == ("large", "red", "circle", "top left", "leftwards", "upper half", "3")


def test_mmeb_subsets_have_upstreams_columns_and_image_tokens(world: Path) -> None:
    for subset in ("MSCOCO_i2t", "MSCOCO_t2i", "OK-VQA", "A-OKVQA", "CIRR", "ImageNet_1K"):
        table = pq.read_table(world / "mmeb" / subset / "original-00000-of-00001.parquet")
        upstream = SAMPLE / "mmeb" / subset / "original-00000-of-00001.parquet"
        if upstream.exists():
            assert table.schema.names == pq.read_schema(upstream).names
        for row in table.to_pylist():
            for text, path in ((row["qry"], row["qry_image_path"]), (row["pos_text"], row["pos_image_path"])):
                assert text.startswith(IMAGE_TOKEN) == bool(path)
                assert not path or (world / "mmeb" / path).is_file()


def test_some_clips_lie_only_in_the_archive(world: Path) -> None:
    frames = world / "llava_hound" / "train_300k"
    folder = world / "llava_hound" / "video_instruction" / "train" / "sft"
    lines = [json.loads(line) for path in folder.iterdir() for line in path.read_text().splitlines()]
    with tarfile.open(frames / "chunk_0.tar.gz") as archive:
        packed = {name.split("/")[0] for name in archive.getnames()}
    unpacked = {path.name for path in frames.iterdir() if path.is_dir()}
    assert packed and unpacked and not packed & unpacked
    assert {line["video"] for line in lines} == packed | unpacked
    assert all("<video>" in line["conversations"][0]["value"] for line in lines)


@pytest.mark.parametrize("name", ["vidore/colpali_train_set", "visrag"])
def test_pages_are_parquet_cells_of_bytes_and_path(world: Path, name: str) -> None:
    path = Path(name) / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(world / path)
    assert table.column("image").to_pylist()[0]["bytes"].startswith(b"\x89PNG")
    if (SAMPLE / path).exists():
        assert set(table.schema.names) == set(pq.read_schema(SAMPLE / path).names)


def test_truth_is_found_by_the_digests_of_the_files(world: Path) -> None:
    truth = pq.read_table(world / "truth.parquet").to_pylist()
    known = {digest for row in truth for digest in row["media_blake3"]}
    images = [blake3(p.read_bytes()).hexdigest() for p in (world / "mmeb" / "images").rglob("*.jpg")]
    assert images and set(images) <= known
    assert all(row["attributes"] == list(named_attributes(row["summary"])) for row in truth)
    assert all(row["attributes"] for row in truth)
