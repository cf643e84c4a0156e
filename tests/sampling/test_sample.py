"""Sources become pairs, and nothing that was read is lost without a word."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.sources import LlavaHoundSource, MmebSource, VidoreSource, VisragSource
from tests.sampling.files import jpeg, only
from umer1_core.errors import SourceError
from umer1_core.sampling import index_sides, list_sources, sample_source
from umer1_core.store import Store


def rows(count: int) -> list[dict]:
    return [{"qry": f"q{n}", "qry_image_path": f"images/{n % 10}.jpg", "pos_text": f"a{n % 3}"} for n in range(count)]


def test_each_bad_row_is_rejected_with_its_reason_and_place(mmeb, store):
    good, broken = rows(1)[0], {"qry": "q", "pos_text": "p"}
    source = mmeb([
        good, good,
        broken | {"qry_image_path": "images/cut.jpg"},
        broken | {"qry_image_path": "images/gone.jpg"},
        broken | {"qry_image_path": "../../secret.jpg"},
        {"qry": "<|image_1|>\n", "pos_text": "p"}, {"qry": "q", "pos_text": " "},
    ])  # fmt: skip
    (Path(source.root) / "images/cut.jpg").write_bytes(jpeg()[:400])
    metrics = sample_source(only(source), 0, store)[-1].metrics
    assert metrics["rejected"] == dict.fromkeys(
        ["duplicate_row", "empty_query", "empty_target", "image_damaged", "media_missing", "path_outside_root"], 1
    )
    assert metrics["read"] == 7 == metrics["not_drawn"] + metrics["pairs"] + sum(metrics["rejected"].values())
    damaged = next(row for row in store.iterate("rejections") if row["reason"] == "image_damaged")
    assert damaged["row"] == "original-00000-of-00001.parquet#2"
    assert "qry_image_path of row 2 of" in damaged["detail"] and "cut.jpg" in damaged["detail"]


def test_only_the_media_of_drawn_rows_are_opened(mmeb, store):
    source = mmeb(rows(10), limit=4)
    for file in (Path(source.root) / "images").iterdir():
        file.unlink()
    metrics = sample_source(only(source), 0, store)[-1].metrics
    assert (metrics["drawn"], metrics["not_drawn"], metrics["rejected"]) == (4, 6, {"media_missing": 4})


def test_pairs_are_cut_into_shards_and_do_not_depend_on_them(mmeb, store, tmp_path):
    spec = only(mmeb(rows(25)))
    entries = sample_source(spec, 0, store, shard_rows=10)
    assert [(e.shard, e.rows) for e in entries] == [
        ("mmeb-OK-VQA-00000", 10), ("mmeb-OK-VQA-00001", 10), ("mmeb-OK-VQA-00002", 5), ("mmeb-OK-VQA", 0),
    ]  # fmt: skip
    other = Store(str(tmp_path / "other"))
    sample_source(spec, 0, other, shard_rows=7)
    assert other.read("pairs").equals(store.read("pairs"))


def test_a_finished_source_is_left_as_it_is_and_another_fingerprint_makes_it_anew(mmeb, store):
    source = mmeb(rows(25))
    first = sample_source(only(source), 0, store, shard_rows=10, fingerprint="a")
    stamp = store.fs.modified(store.at("pairs/mmeb-OK-VQA-00000.parquet"))
    assert sample_source(only(source), 0, store, shard_rows=10, fingerprint="a") == first
    assert store.fs.modified(store.at("pairs/mmeb-OK-VQA-00000.parquet")) == stamp
    sample_source(only(mmeb(rows(25), limit=5)), 0, store, shard_rows=10, fingerprint="b")
    assert [(e.shard, e.rows, e.fingerprint) for e in store.entries("pairs")] == [("mmeb-OK-VQA-00000", 5, "b")]


def test_a_source_without_its_marker_is_drawn_again(mmeb, store):
    spec = only(mmeb(rows(25)))
    first = sample_source(spec, 0, store, shard_rows=10)
    store.delete("entries/rejections/mmeb-OK-VQA.json")
    store.delete("entries/pairs/mmeb-OK-VQA-00002.json")
    assert sample_source(spec, 0, store, shard_rows=10) == first


@pytest.mark.parametrize("kind", [MmebSource, LlavaHoundSource, VidoreSource, VisragSource])
def test_a_missing_folder_is_named_with_its_remedy(kind, tmp_path):
    with pytest.raises(SourceError, match=r"nowhere.*Correct `root`"):
        list_sources([kind(root=str(tmp_path / "nowhere"))])


def test_a_missing_file_is_named(hound):
    (Path(hound.root) / "video_instruction/train/sft/video_240k_caption_15k.jsonl").unlink()
    with pytest.raises(SourceError, match=r"video_240k_caption_15k\.jsonl"):
        list_sources([hound])


def test_an_unknown_subset_is_answered_with_the_one_that_was_meant(mmeb):
    with pytest.raises(SourceError, match="Did you mean OK-VQA"):
        list_sources([mmeb(rows(1), subsets=["OKVQA"])])


def test_a_missing_split_is_answered_with_those_there_are(mmeb):
    with pytest.raises(SourceError, match="its splits: original"):
        list_sources([mmeb(rows(1), subsets=["OK-VQA"], split="diverse_instruction")])


def test_a_missing_column_is_named_with_its_file(mmeb, store):
    source = mmeb(rows(1))
    file = Path(source.root) / "OK-VQA/original-00000-of-00001.parquet"
    pq.write_table(pa.table({"qry": ["q"], "qry_image_path": [""], "pos_image_path": [""]}), file)
    with pytest.raises(SourceError, match=r"original-00000-of-00001\.parquet has no column `pos_text`"):
        sample_source(only(source), 0, store)


def test_a_file_that_is_no_parquet_is_named(mmeb, store):
    source = mmeb(rows(1))
    (Path(source.root) / "OK-VQA/original-00000-of-00001.parquet").write_bytes(b"version https://git-lfs")
    with pytest.raises(SourceError, match=r"not readable Parquet.*Download"):
        sample_source(only(source), 0, store)


def test_a_source_that_stands_twice_is_refused(mmeb):
    source = mmeb(rows(1))
    with pytest.raises(SourceError, match="mmeb/OK-VQA stands 2 times"):
        list_sources([source, source])


def test_equal_sides_are_listed_once_with_their_uses(mmeb, store):
    sample_source(only(mmeb(rows(30))), 0, store, shard_rows=7)
    entries = index_sides(store, 9, seed=0)
    sides = list(store.iterate("sides"))
    uses = {side["text"]: side["uses"] for side in sides}
    assert len(sides) == 33 and sum(uses.values()) == 60
    assert uses["a0"] == 10 and uses["q3"] == 1
    assert [e.rows for e in entries] == [9, 9, 9, 6]


def test_sides_mix_the_sources_and_do_not_depend_on_the_shards_of_pairs(mmeb, store, tmp_path):
    mmeb(rows(40), subset="A")
    specs = list_sources([mmeb([row | {"qry": "B" + row["qry"]} for row in rows(40)], subset="B")])
    other = Store(str(tmp_path / "other"))
    for spec in specs:
        sample_source(spec, 0, store, shard_rows=7)
    for spec in reversed(specs):
        sample_source(spec, 0, other, shard_rows=100)
    first = index_sides(store, 20, seed=0)[0]
    index_sides(other, 20, seed=0)
    assert store.read("sides").equals(other.read("sides"))
    sources = store.read_shard("sides", first.shard).column("source").to_pylist()
    assert min(sources.count("mmeb/A"), sources.count("mmeb/B")) >= 5


def test_sides_with_the_same_image_are_neighbours_wherever_their_pairs_stand(mmeb, store):
    sample_source(only(mmeb(rows(60))), 0, store, shard_rows=7)
    index_sides(store, 200, seed=0)
    images = [side["media"][0]["content_hash"] for side in store.iterate("sides") if side["media"]]
    groups = [image for n, image in enumerate(images) if n == 0 or image != images[n - 1]]
    assert len(images) == 60 and len(groups) == len(set(images)) == 10
    texts = [side["text"] for side in store.iterate("sides")]
    assert texts != sorted(texts)


def test_another_seed_gives_another_order_of_the_same_sides(mmeb, store, tmp_path):
    other = Store(str(tmp_path / "other"))
    for root, seed in ((store, 0), (other, 1)):
        sample_source(only(mmeb(rows(20))), 0, root)
        index_sides(root, 50, seed)
    first, second = ([side["side_key"] for side in root.iterate("sides")] for root in (store, other))
    assert first != second and sorted(first) == sorted(second)


def test_sides_are_indexed_anew_only_when_the_pairs_or_the_fingerprint_change(mmeb, store):
    sample_source(only(mmeb(rows(20))), 0, store)
    first = index_sides(store, 5, 0, "a")
    stamp = store.fs.modified(store.at("sides/00000.parquet"))
    assert index_sides(store, 5, 0, "a") == first
    assert store.fs.modified(store.at("sides/00000.parquet")) == stamp
    assert len(index_sides(store, 50, 0, "b")) == 1 == len(store.entries("sides"))
