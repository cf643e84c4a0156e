"""An export loads with `datasets` and has the authors' form; it goes on where it stopped, and says what it left out."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blake3 import blake3
from datasets import load_dataset
from PIL import Image

from schemas.recipe import Annotation, Publishing, Recipe
from schemas.sources import ReleasedSource, VidoreSource
from umer1_core.errors import StorageError
from umer1_core.media import describe, read_frames, read_image
from umer1_core.pairs import Media, Pair, Side, media_from_record, pair_id, pair_record
from umer1_core.publishing.export.run import export
from umer1_core.publishing.publish import publish
from umer1_core.sampling.released import list_released
from umer1_core.sampling.sample import sample_source
from umer1_core.store import Store
from umer1_core.template import training_prompt, training_response
from umer1_core.versions import Version


def jpeg(number: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.full((32, 48, 3), 20 * number, np.uint8)).save(sink, "JPEG")
    return sink.getvalue()


def pictures(root: Path) -> dict[str, Media]:
    """The same kinds of places that sources have: a file, members of archives, a cell, a clip's folder."""
    root.mkdir(parents=True)
    (root / "file.jpg").write_bytes(jpeg(1))
    with zipfile.ZipFile(root / "pictures.zip", "w") as archive:
        archive.writestr("in/zip.jpg", jpeg(2))
    with tarfile.open(root / "pictures.tar", "w") as tar:
        info = tarfile.TarInfo("in/tar.jpg")
        info.size = len(jpeg(3))
        tar.addfile(info, io.BytesIO(jpeg(3)))
    cell = pa.table({"image": [{"bytes": jpeg(4), "path": "page.jpg"}]})
    pq.write_table(cell, root / "cells.parquet")
    (root / "clip").mkdir()
    for number in (5, 6):
        (root / f"clip/{number}.jpeg").write_bytes(jpeg(number))
    found = {
        "file": Media("image", str(root / "file.jpg")),
        "zip": Media("image", str(root / "pictures.zip"), "in/zip.jpg"),
        "tar": Media("image", str(root / "pictures.tar"), "in/tar.jpg"),
        "cell": Media("image", str(root / "cells.parquet"), "image#0"),
        "clip": Media("video", str(root / "clip"), frames=("5.jpeg", "6.jpeg")),
    }
    return {name: describe(media) for name, media in found.items()}


SOURCES = {
    "file": ("mmeb/CIRR", "image"),
    "zip": ("mmeb/NIGHTS", "image"),
    "tar": ("vidore/colpali_train_set", "visdoc"),
    "cell": ("visrag/ChartQA", "visdoc"),
    "clip": ("llava_hound/qa", "video"),
}


@pytest.fixture
def made(tmp_path: Path) -> tuple[Store, Recipe]:
    """One pair for each kind of place: a query with the picture, a target of text."""
    root = tmp_path / "data" / "MMEB-train"
    version = Version(str(tmp_path / "out/v1"), 1, "", "build", "", "2026-01-01T00:00:00+00:00")
    store = version.store
    pairs, verdicts, annotations = [], [], []
    for name, media in pictures(root).items():
        source, modality = SOURCES[name]
        query, target = Side(f"What is in {name}?", (media,)), Side(f"answer to {name}")
        negatives = (Side("not it", (media,)),) if name == "file" else ()
        pairs.append(Pair(pair_id(source, name), source, modality, query, target, negatives, f"rows#{name}"))
        for side in (query, target):
            shared = {"side_key": side.key, "sample": 0, "source": source}
            annotations.append(shared | {"annotator": "a", "round": 0, "finish_reason": "stop", "completion_tokens": 9})
            verdicts.append(
                shared | {"kept": True, "reasons": [], "reasoning": f"saw {side.text}", "summary": "sum", "uses": 1}
            )
    store.write_shard("pairs", "all-00000", [pair_record(pair) for pair in pairs])
    store.write_shard("annotations", "00000", annotations)
    store.write_shard("verdicts", "00000", verdicts)
    recipe = Recipe(
        name="x",
        output=str(tmp_path / "out"),
        sources=[VidoreSource(root=str(root))],
        annotation=Annotation(model="a"),
        publishing=Publishing(rl_pairs=5, rl_image_sources=[], shard_rows=3),
    )
    publish(version, recipe, "a")
    return store, recipe


def loaded(folder: Path, config: str, cache: Path) -> dict[str, dict]:
    rows = load_dataset(str(folder), config, split="train", cache_dir=str(cache))
    return {row["source"]: row for row in rows}


def color(image: Image.Image) -> int:
    return round(float(np.asarray(image).mean()) / 20)


@pytest.mark.parametrize("media", ["reference", "embed"])
def test_it_loads_with_datasets_and_the_pictures_are_the_ones(made, tmp_path, media):
    store, recipe = made
    done = export(store, recipe, str(tmp_path / "export"), media=media)
    assert done.left_out == {} and done.files == 1 + len(list((tmp_path / "export").rglob("*.parquet")))
    for config in ("cold_start", "rl"):
        rows = loaded(tmp_path / "export", config, tmp_path / "cache")
        shown = {source: [color(image) for image in row["query_images"]] for source, row in rows.items()}
        assert shown == {
            "mmeb/CIRR": [1], "mmeb/NIGHTS": [2], "vidore/colpali_train_set": [3], "visrag/ChartQA": [4],
            "llava_hound/qa": [5, 6],
        }  # fmt: skip
        assert {row["query_kind"] for row in rows.values()} == {"image", "video"}
        assert all(row["target_images"] == [] and row["target_kind"] == "text" for row in rows.values())
        assert [color(image) for image in rows["mmeb/CIRR"]["negatives"][0]["images"]] == [1]


def test_rows_keep_their_text_and_provenance(made, tmp_path):
    store, recipe = made
    export(store, recipe, str(tmp_path / "export"))
    row = loaded(tmp_path / "export", "cold_start", tmp_path / "cache")["mmeb/CIRR"]
    assert row["query_prompt"] == training_prompt("What is in file?")
    assert row["target_response"] == training_response("saw answer to file", "sum")
    assert row["provenance"]["row"] == "rows#file" and row["provenance"]["target_annotator"] == "a"


def stored(folder: Path) -> dict[str, list]:
    rows = [row for file in (folder / "cold_start").iterdir() for row in pq.read_table(file).to_pylist()]
    return {row["source"]: row["query_images"] for row in rows}


def test_embedded_bytes_are_the_stored_ones(made, tmp_path):
    store, recipe = made
    export(store, recipe, str(tmp_path / "export"), media="embed")
    assert stored(tmp_path / "export")["mmeb/CIRR"] == [{"bytes": jpeg(1), "path": "file.jpg"}]
    assert [cell["bytes"] for cell in stored(tmp_path / "export")["llava_hound/qa"]] == [jpeg(5), jpeg(6)]


def test_by_reference_only_what_has_no_path_is_embedded(made, tmp_path):
    store, recipe = made
    export(store, recipe, str(tmp_path / "export"), media="reference")
    found = stored(tmp_path / "export")
    assert {source: all(cell["bytes"] for cell in cells) for source, cells in found.items()} == {
        "mmeb/CIRR": False, "mmeb/NIGHTS": False, "vidore/colpali_train_set": False, "visrag/ChartQA": True,
        "llava_hound/qa": False,
    }  # fmt: skip


def test_files_and_row_groups_are_cut_by_bytes(made, tmp_path, monkeypatch):
    store, recipe = made
    monkeypatch.setattr("umer1_core.publishing.export.parquet._FILE_BYTES", 1)
    export(store, recipe, str(tmp_path / "files"), media="embed")
    names = sorted(file.name for file in (tmp_path / "files/cold_start").iterdir())
    assert names == [f"train-{n:05d}-of-00005.parquet" for n in range(5)]
    assert len(loaded(tmp_path / "files", "cold_start", tmp_path / "cache")) == 5
    monkeypatch.undo()
    monkeypatch.setattr("umer1_core.publishing.export.parquet._GROUP_BYTES", 1)
    export(store, recipe, str(tmp_path / "groups"), media="embed")
    for file in (tmp_path / "groups/cold_start").iterdir():
        assert pq.ParquetFile(file).num_row_groups == pq.ParquetFile(file).metadata.num_rows


def test_what_is_finished_is_kept_and_the_rest_made_anew(made, tmp_path):
    store, recipe = made
    first = export(store, recipe, str(tmp_path / "export"))
    files = sorted((tmp_path / "export/cold_start").iterdir())
    stamps = {file: file.stat().st_mtime_ns for file in files}
    files[0].unlink()
    again = export(store, recipe, str(tmp_path / "export"))
    assert (again.kept, again.files) == (first.files - 1, first.files) and len(files) > 1
    assert all(file.stat().st_mtime_ns == stamps[file] for file in files[1:])
    assert len(loaded(tmp_path / "export", "cold_start", tmp_path / "cache")) == 5


def test_another_export_into_the_folder_leaves_no_file_of_the_first(made, tmp_path, monkeypatch):
    store, recipe = made
    export(store, recipe, str(tmp_path / "export"))
    monkeypatch.setattr("umer1_core.publishing.export.parquet._FILE_BYTES", 1)
    export(store, recipe, str(tmp_path / "export"), media="embed")
    assert len(list((tmp_path / "export/cold_start").iterdir())) == 5


def test_a_row_whose_picture_is_gone_is_left_out_and_recorded(made, tmp_path):
    store, recipe = made
    (tmp_path / "data/MMEB-train/file.jpg").rename(tmp_path / "away.jpg")
    done = export(store, recipe, str(tmp_path / "export"), media="embed")
    assert sum(done.left_out.values()) == 2
    assert "mmeb/CIRR" not in loaded(tmp_path / "export", "cold_start", tmp_path / "cache")
    listed = orjson.loads((tmp_path / "export/export.json").read_bytes())["left_out"]
    assert all(row["pair_id"] and row["reason"] for rows in listed.values() for row in rows)
    (tmp_path / "away.jpg").rename(tmp_path / "data/MMEB-train/file.jpg")
    assert export(store, recipe, str(tmp_path / "export"), media="embed").left_out == {}
    assert "mmeb/CIRR" in loaded(tmp_path / "export", "cold_start", tmp_path / "fresh")


def test_a_folder_with_other_things_is_not_written_to(made, tmp_path):
    store, recipe = made
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(StorageError, match="not empty"):
        export(store, recipe, str(tmp_path))
    with pytest.raises(StorageError, match="folder of this machine"):
        export(store, recipe, "s3://bucket/x")


def test_the_card_has_the_funnel_and_says_where_terms_are_without_inventing_any(made, tmp_path):
    store, recipe = made
    export(store, recipe, str(tmp_path / "export"))
    card = (tmp_path / "export/README.md").read_text()
    assert "## Counts" in card and "## The set for reinforcement learning" in card and "query_images" in card
    assert "TIGER-Lab/MMEB-train" in card and "license:" not in card and "report/index.html" not in card


@pytest.mark.parametrize("media", ["reference", "embed"])
def test_the_authors_form_has_their_keys_and_paths_that_exist(made, tmp_path, media):
    store, recipe = made
    folder = tmp_path / "export"
    export(store, recipe, str(folder), form="released", media=media)
    sft = {row["dataset_name"]: row for row in orjson.loads((folder / "UME-sft-train.json").read_bytes())}
    assert sft.keys() == {
        "CIRR", "NIGHTS", "vidore/colpali_train_set", "openbmb/VisRAG-Ret-Train-In-domain-data", "llavahound_qa",
    }  # fmt: skip
    cirr, clip = sft["CIRR"], sft["llavahound_qa"]
    assert set(cirr) == {"dataset_name", "qry", "pos"} and set(cirr["qry"]) == {"image", "conversations"}
    human, gpt = cirr["qry"]["conversations"]
    assert human == {"from": "human", "value": "<image>" + training_prompt("What is in file?")}
    assert gpt == {"from": "gpt", "value": training_response("saw What is in file?", "sum")}
    assert cirr["pos"]["image"] == "images/blank.jpg" and clip["pos"]["video"] == ["images/blank.jpg"]
    assert clip["qry"]["conversations"][0]["value"].startswith("<video>What") and len(clip["qry"]["video"]) == 2
    for row in sft.values():
        for side in (row["qry"], row["pos"]):
            for path in [side["image"]] if "image" in side else side["video"]:
                assert (folder / path).is_file() and not Path(path).is_absolute()
    assert (folder / cirr["qry"]["image"]).read_bytes() == jpeg(1)
    if media == "reference":
        assert cirr["qry"]["image"] == "MMEB-train/file.jpg"


def test_the_authors_rl_form_has_their_keys(made, tmp_path):
    store, recipe = made
    export(store, recipe, str(tmp_path / "export"), form="released", media="embed")
    rows = {row["dataset_name"]: row for row in orjson.loads((tmp_path / "export/UME-rl-train.json").read_bytes())}
    cirr, clip = rows["CIRR"], rows["llavahound_qa"]
    assert set(cirr) == {
        "dataset", "dataset_name", "solution", "qry_text", "qry_image", "qry_video",
        "pos_text", "pos_image", "pos_video",
    }  # fmt: skip
    assert (cirr["solution"], cirr["qry_text"], cirr["qry_video"]) == ("<embedding>", "What is in file?", [""])
    assert (cirr["pos_image"], cirr["pos_video"], clip["qry_image"]) == ("", [""], "") and len(clip["qry_video"]) == 2


def imported(file: Path, root: Path, store: Store) -> dict[str, dict]:
    """The pairs that the importer of released data reads, by source."""
    (spec,) = list_released(ReleasedSource(files=[str(file)], root=str(root)))
    sample_source(spec, 0, store)
    assert list(store.iterate("rejections")) == []
    return {pair["source"]: pair for pair in store.iterate("pairs")}


def seen(side: dict) -> list[str]:
    """What a side is: its text and its pictures' bytes."""
    pictures = [data for media in side["media"] for data in _bytes(media_from_record(media))]
    return [side["text"], *(blake3(data).hexdigest() for data in pictures)]


def _bytes(media: Media) -> list[bytes]:
    return [read_image(media)] if media.kind == "image" else read_frames(media)


@pytest.mark.parametrize("file", ["UME-sft-train.json", "UME-rl-train.json"])
def test_the_authors_form_comes_back_as_the_same_pairs(made, tmp_path, file):
    store, recipe = made
    export(store, recipe, str(tmp_path / "export"), form="released", media="embed")
    back = imported(tmp_path / "export" / file, tmp_path / "export", Store(str(tmp_path / "back")))
    ours = {pair["source"].replace("visrag/ChartQA", "visrag"): pair for pair in store.iterate("pairs")}
    assert {source: seen(pair["query"]) for source, pair in back.items()} == {
        source: seen(pair["query"]) for source, pair in ours.items()
    }
    assert {source: seen(pair["target"]) for source, pair in back.items()} == {
        source: seen(pair["target"]) for source, pair in ours.items()
    }
    if file == "UME-sft-train.json":
        responses = {row["completion"] for row in Store(f"{tmp_path}/back/imported").iterate("annotations")}
        assert "<think>saw What is in file?</think><answer>sum</answer>" in {"".join(r.split("\n")) for r in responses}


def test_links_to_this_machine_do_not_go_to_the_hub(made):
    store, recipe = made
    with pytest.raises(StorageError, match="embed"):
        export(store, recipe, "hub:someone/x", form="released", media="reference")
