"""A shard is there whole or not at all, and its entry tells what it was made from."""

import os

import pytest

from umer1_core.errors import StorageError
from umer1_core.store import Store, content_hash

ROWS = [{"source": "s", "row": "r", "reason": "image_damaged", "detail": "d"}]


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store(str(tmp_path) if request.param == "local" else f"memory://umer1-{tmp_path.name}")


def test_a_written_shard_is_read_back_and_found_by_its_fingerprint(store):
    entry = store.write_shard("rejections", "a", ROWS, "made-from-x", count=1)
    assert store.read("rejections").to_pylist() == ROWS
    assert store.entry("rejections", "a", "made-from-x") == entry and entry.metrics == {"count": 1}
    assert store.entry("rejections", "a", "made-from-y") is None


def test_an_entry_without_its_file_counts_as_missing(store):
    store.write_shard("rejections", "a", ROWS)
    store.delete("rejections/a.parquet")
    assert store.entry("rejections", "a") is None


def test_a_full_disk_is_named_and_leaves_no_partial_file(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    store = Store(str(tmp_path))
    with pytest.raises(StorageError, match=r"No space left on device.*Free some space"):
        store.write_bytes("cold_start/a.parquet", b"data")
    assert list((tmp_path / "cold_start").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="output"):
        Store(str(tmp_path / "file")).write_bytes("x/a", b"")


def test_temporary_files_of_a_killed_writer_are_swept(tmp_path):
    store = Store(str(tmp_path))
    store.write_bytes("pairs/a.parquet", b"x")
    (tmp_path / "pairs" / ".tmp-123-b.parquet").write_bytes(b"half")
    assert store.sweep() == 1 and sorted(p.name for p in (tmp_path / "pairs").iterdir()) == ["a.parquet"]


def test_a_damaged_shard_is_named_with_the_remedy(tmp_path):
    store = Store(str(tmp_path))
    store.write_shard("rejections", "a", ROWS)
    (tmp_path / "rejections" / "a.parquet").write_bytes(b"not parquet")
    with pytest.raises(StorageError, match="Delete it together with its file under entries/"):
        store.read_shard("rejections", "a")


def test_the_content_hash_changes_with_content_only(store):
    first = store.write_shard("rejections", "a", ROWS)
    again = store.write_shard("rejections", "a", ROWS, "other-fingerprint")
    other = store.write_shard("rejections", "a", ROWS * 2)
    assert content_hash([first]) == content_hash([again]) != content_hash([other])


def test_the_manifest_keeps_fields_of_earlier_stages(store):
    store.write_shard("rejections", "a", ROWS)
    store.collect_manifest(name="x")
    manifest = store.collect_manifest(data_hash="h")
    assert manifest["name"] == "x" and manifest["tables"]["rejections"][0]["rows"] == 1


@pytest.fixture
def child(store):
    """The version after `store`'s, which here is called v1."""
    parent, after = Store(f"{store.root}/v1"), Store(f"{store.root}/v2")
    parent.write_json("version.json", {"parent": ""})
    after.write_json("version.json", {"parent": "/where/it/was/made/v1"})
    return after


def test_a_shard_equal_to_the_parents_is_shared_and_outlives_it(child):
    child.parent.write_shard("rejections", "a", ROWS, "made-from-x")
    entry = child.write_shard("rejections", "a", ROWS, "made-from-y", count=1)
    assert (entry.shared_with, entry.fingerprint, entry.metrics) == ("v1", "made-from-y", {"count": 1})
    if child.local:
        assert os.path.samefile(child.parent.files("rejections")[0], child.files("rejections")[0])
    child.fs.rm(child.parent.path, recursive=True)
    assert Store(child.root).read("rejections").to_pylist() == ROWS


def test_a_shard_with_other_content_is_its_own_and_leaves_the_parents_alone(child):
    child.parent.write_shard("rejections", "a", ROWS)
    assert child.write_shard("rejections", "a", [*ROWS, *ROWS]).shared_with == ""
    assert child.parent.read("rejections").num_rows == 1


def test_only_a_shard_made_with_the_same_fingerprint_is_inherited(child):
    child.parent.write_shard("rejections", "a", ROWS, "made-from-x")
    assert child.inherit("rejections", "a", "made-from-y") is None
    assert child.inherit("rejections", "a", "made-from-x").shared_with == "v1"
    assert child.inherit("rejections", "a", "made-from-x") == child.entry("rejections", "a", "made-from-x")


def test_a_disk_without_hard_links_gets_a_copy(child, monkeypatch):
    if not child.local:
        pytest.skip("object stores copy anyway")

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    child.parent.write_shard("rejections", "a", ROWS, "made-from-x")
    assert child.inherit("rejections", "a", "made-from-x").shared_with == "v1"
    assert not os.path.samefile(child.parent.files("rejections")[0], child.files("rejections")[0])
    assert child.read("rejections").to_pylist() == ROWS
