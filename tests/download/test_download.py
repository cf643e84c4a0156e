"""Exactly what a recipe needs comes from the hub, whole, and a broken transfer is gone on with."""

from __future__ import annotations

import io
import os
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from schemas.recipe import Recipe
from tests.download.hub_server import HubServer, running
from umer1_core.download.hub import PARTS, Hub
from umer1_core.download.run import Downloaded, download, plan_download
from umer1_core.download.show import print_downloaded, print_plan
from umer1_core.errors import Fatal, RecipeError, SourceError, StorageError
from umer1_core.recipes import parse_recipe
from umer1_core.upstream import PUBLISHED

MMEB, HOUND = "TIGER-Lab/MMEB-train", "ShareGPTVideo/train_video_and_instruction"
VISRAG = "openbmb/VisRAG-Ret-Train-In-domain-data"
BIG = os.urandom(300_000)
CHUNK = 1 << 14


def rows(count: int, image: str = "images/OK-VQA/0.jpg") -> bytes:
    cells = {"qry": ["q"] * count, "qry_image_path": [image] * count, "pos_text": ["a"] * count}
    sink = io.BytesIO()
    pq.write_table(pa.table(cells | {"pos_image_path": [""] * count}), sink)
    return sink.getvalue()


def zipped(name: str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(name, BIG)
    return sink.getvalue()


@pytest.fixture
def hub() -> Iterator[HubServer]:
    files = {
        MMEB: {
            "README.md": b"about",
            "OK-VQA/original-00000-of-00001.parquet": rows(9_000),
            "OK-VQA/diverse_instruction-00000-of-00001.parquet": rows(9_000),
            "MSCOCO/original-00000-of-00001.parquet": rows(100_000, "images/MSCOCO/1.jpg"),
            "images_zip/OK-VQA.zip": zipped("OK-VQA/0.jpg"),
            "images_zip/MSCOCO.zip": zipped("MSCOCO/0.jpg"),
            "images_zip/MSCOCO_i2t.zip": zipped("MSCOCO_i2t/0.jpg"),
        },
        HOUND: {
            "video_instruction/train/sft/video_caption_300k.jsonl": b"{}\n" * 300_000,
            "video_instruction/train/sft/video_240k_caption_15k.jsonl": b"{}\n" * 200_000,
            "train_300k/chunk_0.tar.gz": BIG,
            "train_600k/chunk_0.tar.gz": BIG,
        },
        VISRAG: {"data/train-00000-of-00001.parquet": rows(122_752), "data/test-00000.parquet": rows(1)},
    }
    with running(HubServer(files)) as server:
        yield server


@pytest.fixture
def make_recipe(tmp_path: Path) -> Callable[..., Recipe]:
    def make(*sources: dict[str, Any]) -> Recipe:
        content = {"name": "x", "output": str(tmp_path / "out"), "annotation": {"model": "miniature"}}
        return parse_recipe(content | {"sources": list(sources)})

    return make


@pytest.fixture
def ok_vqa(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Recipe:
    return make_recipe({"kind": "mmeb", "root": str(tmp_path / "mmeb"), "subsets": ["OK-VQA"]})


def get(recipe: Recipe, hub: HubServer, **options: Any) -> Downloaded:
    return download(recipe, Hub(hub.url), lambda done, total: None, **options)


def found(root: Path) -> set[str]:
    return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}


def test_of_mmeb_only_the_named_subsets_split_and_pictures_are_fetched(ok_vqa, hub, tmp_path):
    downloaded = get(ok_vqa, hub)

    assert found(tmp_path / "mmeb") == {"OK-VQA/original-00000-of-00001.parquet", "images_zip/OK-VQA.zip"}
    assert (tmp_path / "mmeb/images_zip/OK-VQA.zip").read_bytes() == hub.files[MMEB]["images_zip/OK-VQA.zip"]
    assert [(count.unit, count.rows, count.agrees) for count in downloaded.counts] == [("mmeb/OK-VQA", 9_000, True)]


def test_a_subset_whose_rows_show_anothers_pictures_gets_its_archive_too(make_recipe, hub, tmp_path):
    hub.files[MMEB]["MSCOCO_i2t/original-00000.parquet"] = rows(113_500, "images/MSCOCO/Train/7.jpg")
    recipe = make_recipe({"kind": "mmeb", "root": str(tmp_path / "mmeb"), "subsets": ["MSCOCO_i2t"]})

    get(recipe, hub)

    assert {"images_zip/MSCOCO.zip", "images_zip/MSCOCO_i2t.zip"} < found(tmp_path / "mmeb")


def test_of_llava_hound_the_builders_texts_and_the_300k_frames_are_fetched(make_recipe, hub, tmp_path):
    recipe = make_recipe({"kind": "llava_hound", "root": str(tmp_path / "hound"), "builders": ["qa"]})

    (count,) = get(recipe, hub).counts

    sft = "video_instruction/train/sft/video_240k_caption_15k.jsonl"
    assert found(tmp_path / "hound") == {sft, "train_300k/chunk_0.tar.gz"}
    assert count.rows == 200_000 and not count.agrees, "255,000 were published: the stand-in has too few"


def test_evaluation_sources_are_fetched_and_a_folder_may_take_the_roots_place(make_recipe, hub, tmp_path):
    recipe = make_recipe({"kind": "visrag", "root": "/nowhere"})

    get(recipe, hub, to=str(tmp_path / "all"))

    assert found(tmp_path / "all") == {"visrag/data/train-00000-of-00001.parquet"}


def test_only_takes_a_unit_or_a_kind_and_names_the_one_that_was_meant(make_recipe, hub, tmp_path):
    recipe = make_recipe(
        {"kind": "mmeb", "root": str(tmp_path / "mmeb"), "subsets": ["OK-VQA", "MSCOCO"]},
        {"kind": "visrag", "root": str(tmp_path / "visrag")},
    )

    units = {plan.want.unit for plan in plan_download(recipe, Hub(hub.url), only=["mmeb/OK-VQA", "visrag"])}

    assert units == {"mmeb/OK-VQA", "visrag"}
    with pytest.raises(RecipeError, match=r"mmeb/OKVQA.*Did you mean mmeb/OK-VQA\?"):
        plan_download(recipe, Hub(hub.url), only=["mmeb/OKVQA"])


def test_a_second_download_fetches_nothing(ok_vqa, hub):
    get(ok_vqa, hub)
    asked = len(hub.asked)

    assert get(ok_vqa, hub).fetched_bytes == 0
    assert len(hub.asked) == asked


def test_a_connection_cut_half_way_is_gone_on_with_by_range(ok_vqa, hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", CHUNK)  # the library loses the last one
    hub.cut_once.add("images_zip/OK-VQA.zip")

    get(ok_vqa, hub)

    data = hub.files[MMEB]["images_zip/OK-VQA.zip"]
    assert (tmp_path / "mmeb/images_zip/OK-VQA.zip").read_bytes() == data
    assert any("bytes=" in ask for ask in hub.asked), "the rest was asked for by range"
    assert hub.sent["images_zip/OK-VQA.zip"] <= len(data) + CHUNK, "no byte was sent twice"


def test_what_a_killed_process_left_is_gone_on_with(ok_vqa, hub, tmp_path):
    data = hub.files[MMEB]["images_zip/OK-VQA.zip"]
    (plan,) = plan_download(ok_vqa, Hub(hub.url))
    (file,) = (each for each in plan.files if each.path.endswith(".zip"))
    part = tmp_path / "mmeb" / PARTS / f"{file.identity}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(data[:1_000])

    get(ok_vqa, hub)

    assert f"{file.path} bytes=1000-" in hub.asked
    assert (tmp_path / "mmeb" / file.path).read_bytes() == data


def test_a_hub_that_is_busy_is_asked_again_when_it_says_so(ok_vqa, hub):
    hub.busy["images_zip/OK-VQA.zip"] = 2

    assert get(ok_vqa, hub).fetched_bytes

    assert hub.asked.count("images_zip/OK-VQA.zip") == 3


def test_a_size_that_is_not_the_listed_one_is_an_error_that_names_the_file(ok_vqa, hub, tmp_path):
    hub.lies["images_zip/OK-VQA.zip"] = 5

    with pytest.raises(SourceError, match=r"images_zip/OK-VQA.zip ended at .* bytes, the hub lists"):
        get(ok_vqa, hub)

    assert "images_zip/OK-VQA.zip" not in found(tmp_path / "mmeb"), "nothing half stands in its place"


def test_bytes_that_have_not_the_hubs_checksum_are_no_file(ok_vqa, hub, tmp_path):
    hub.spoiled.add("images_zip/OK-VQA.zip")

    with pytest.raises(SourceError, match=r"OK-VQA.zip has not the hub's checksum"):
        get(ok_vqa, hub)

    assert "images_zip/OK-VQA.zip" not in found(tmp_path / "mmeb")


def test_a_gated_data_set_says_where_to_accept_its_terms_and_the_token_stands_nowhere(ok_vqa, hub, monkeypatch):
    hub.gated.add(MMEB)
    with pytest.raises(SourceError, match=r"asks for its terms.*/datasets/TIGER-Lab/MMEB-train.*HF_TOKEN"):
        get(ok_vqa, hub)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    get(ok_vqa, hub)

    assert "Bearer hf_secret" in hub.tokens
    hub.lies["OK-VQA/original-00000-of-00001.parquet"] = 1
    with pytest.raises(SourceError) as error:
        get(ok_vqa, hub)
    assert "hf_secret" not in "".join(traceback.format_exception(error.value))


def test_an_unknown_repository_subset_and_a_missing_network_are_sentences(
    make_recipe, ok_vqa, hub, tmp_path, monkeypatch
):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library's own patience
    vidore = make_recipe({"kind": "vidore", "root": str(tmp_path / "v")})
    with pytest.raises(SourceError, match=r"There is no data set vidore/colpali_train_set"):
        get(vidore, hub)
    unknown = make_recipe({"kind": "mmeb", "root": str(tmp_path / "m"), "subsets": ["OKVQA"]})
    with pytest.raises(SourceError, match=r"no file for mmeb/OKVQA"):
        get(unknown, hub)
    with pytest.raises(Fatal, match=r"cannot be fetched.*network"):
        download(ok_vqa, Hub("http://127.0.0.1:9"), lambda done, total: None)


def test_a_disk_without_room_is_told_before_the_first_byte(ok_vqa, hub, monkeypatch):
    usage = type("Usage", (), {"free": 1_000})
    monkeypatch.setattr("umer1_core.download.run.shutil.disk_usage", lambda folder: usage)

    with pytest.raises(StorageError, match=r"GB free"):
        get(ok_vqa, hub)

    assert not hub.asked


def test_archives_that_somebody_unpacked_are_not_fetched_again(ok_vqa, hub, tmp_path):
    picture = tmp_path / "mmeb/images/OK-VQA/0.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"-")

    get(ok_vqa, hub)

    assert "images_zip/OK-VQA.zip" not in found(tmp_path / "mmeb")


def test_a_remote_root_asks_for_a_folder_of_this_machine(make_recipe, hub):
    with pytest.raises(RecipeError, match=r"not a folder of this machine.*--to"):
        get(make_recipe({"kind": "visrag", "root": "s3://bucket/visrag"}), hub)


def test_released_json_lies_where_the_recipe_names_it(make_recipe, hub, tmp_path):
    hub.files["zhibinlan/UME-rl-train"] = {"UME-rl-train.json": b'[{"solution": 1}, {"solution": 2}]', "x": b""}
    file = tmp_path / "released/UME-rl-train.json"
    recipe = make_recipe({"kind": "released", "files": [str(file)], "root": str(tmp_path)})

    (count,) = get(recipe, hub).counts

    assert file.is_file() and count.rows == 2 and count.expected == "11,136"


def test_a_mapped_data_set_comes_whole_into_the_hubs_cache(make_recipe, hub, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.files["someone/pairs"] = {"data/train.jsonl": b"{}\n", "README.md": b"-"}
    recipe = make_recipe({"kind": "dataset", "name": "pairs", "path": "someone/pairs", "columns": {"query_text": "q"}})

    get(recipe, hub)

    assert {Path(name).name for name in found(tmp_path / "cache")} >= {"train.jsonl", "README.md"}


def test_the_progress_ends_at_the_whole_and_the_tables_fit_a_terminal(ok_vqa, hub):
    hub.cut_once.add("images_zip/OK-VQA.zip")
    told: list[tuple[int, int]] = []
    sink = io.StringIO()
    console = Console(file=sink, width=100)
    print_plan(plan_download(ok_vqa, Hub(hub.url)), console)

    downloaded = download(ok_vqa, Hub(hub.url), lambda done, total: told.append((done, total)))

    print_downloaded(downloaded, console)
    assert told[-1][0] == told[-1][1] == sum(plan.bytes for plan in downloaded.plans)
    assert "To fetch: 2 files" in sink.getvalue() and "9,000" in sink.getvalue()
    assert max(map(len, sink.getvalue().splitlines())) <= 100


def test_the_published_counts_add_up_as_the_paper_says():
    assert sum(each.sampled for each in PUBLISHED.values()) == pytest.approx(1_760_000, rel=0.005)
    assert sum(each.released for each in PUBLISHED.values()) == pytest.approx(1_463_360, rel=0.0001)
    assert sum(each.released for name, each in PUBLISHED.items() if name.startswith("mmeb/")) == 585_278
