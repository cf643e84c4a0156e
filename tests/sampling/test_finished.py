"""A new version shares what its parent drew of the same files, and draws again what has changed."""

import os
from pathlib import Path

import orjson
import pytest

from schemas.sources import MediaRules, OwnSource, ReleasedSource
from umer1_core.sampling.sample import index_sides, list_sources, sample_source
from umer1_core.store import Store


@pytest.fixture
def versions(tmp_path: Path) -> tuple[Store, Store]:
    stores = Store(str(tmp_path / "out/v1")), Store(str(tmp_path / "out/v2"))
    for store, parent in zip(stores, ("", stores[0].root), strict=True):
        store.write_json("version.json", {"parent": parent})
    return stores


def write_pairs(folder: Path, count: int) -> OwnSource:
    rows = [{"query": {"text": f"q{n}"}, "target": {"text": f"t{n % 3}"}} for n in range(count)]
    (folder / "pairs.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return OwnSource(name="x", files=[str(folder / "pairs.jsonl")])


def sample(source: OwnSource | ReleasedSource, store: Store, fingerprint: str = "f") -> list[str]:
    (spec,) = list_sources([source])
    entries = sample_source(spec, 0, store, shard_rows=4, fingerprint=fingerprint, rules=MediaRules())
    return [entry.shared_with for entry in entries]


def test_what_the_parent_drew_of_the_same_files_is_shared_whole(tmp_path, versions):
    first, second = versions
    source = write_pairs(tmp_path, 10)
    sample(source, first)
    assert sample(source, second) == ["v1"] * 4  # three shards of pairs, then the rejections
    assert second.read("pairs") == first.read("pairs")
    assert all(os.path.samefile(*files) for files in zip(first.files("pairs"), second.files("pairs"), strict=True))
    assert sample(source, second) == ["v1"] * 4


def test_a_source_whose_rows_changed_is_drawn_again(tmp_path, versions):
    first, second = versions
    sample(write_pairs(tmp_path, 10), first)
    sample(write_pairs(tmp_path, 11), second)
    assert (first.read("pairs").num_rows, second.read("pairs").num_rows) == (10, 11)


def test_a_draw_with_other_settings_is_not_shared(tmp_path, versions):
    first, second = versions
    source = write_pairs(tmp_path, 40).model_copy(update={"limit": 20})
    sample(source, first)
    (spec,) = list_sources([source])
    sample_source(spec, 1, second, fingerprint="g")
    assert first.read("pairs", ["pair_id"]) != second.read("pairs", ["pair_id"])


def test_an_unfinished_parent_shares_nothing(tmp_path, versions):
    first, second = versions
    source = write_pairs(tmp_path, 10)
    sample(source, first)
    first.delete("entries/rejections/own-x.json")
    assert sample(source, second)[-1] == ""
    assert second.read("pairs").num_rows == 10


def test_answers_that_came_with_the_rows_are_shared_too(tmp_path, versions):
    turns = [{"from": "human", "value": "a dog"}, {"from": "gpt", "value": "<think>a</think><answer>b\n<gen_emb>"}]
    row = {"dataset_name": "CIRR", "qry": {"conversations": turns}, "pos": {"conversations": turns}}
    (tmp_path / "sft.json").write_bytes(orjson.dumps([row]))
    source = ReleasedSource(files=[str(tmp_path / "sft.json")], root=str(tmp_path))
    for store in versions:
        sample(source, store)
    imported = [Store(f"{store.root}/imported").read("annotations").to_pylist() for store in versions]
    assert len(imported[0]) == 2 and imported[0] == imported[1]


def test_the_sides_of_the_parents_very_pairs_are_shared(tmp_path, versions):
    source = write_pairs(tmp_path, 10)
    for store in versions:
        sample(source, store)
        index_sides(store, 4, 0, "f")
    assert {entry.shared_with for entry in versions[1].entries("sides")} == {"v1"}
    assert versions[1].read("sides").num_rows == 13


def test_tables_inside_a_version_have_those_inside_its_parent_as_theirs(versions):
    assert Store(f"{versions[1].root}/held_out").parent.root == f"{versions[0].root}/held_out"
    assert Store(f"{versions[0].root}/held_out").parent is None
