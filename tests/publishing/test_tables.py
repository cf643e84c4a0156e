"""Only pairs with two kept sides are published, ready for a trainer."""

import os
from collections import Counter

import orjson
import pytest
from blake3 import blake3

from schemas.recipe import Publishing
from umer1_core.errors import StorageError
from umer1_core.pairs import Side
from umer1_core.publishing.rl import publish_rl
from umer1_core.publishing.tables import publish_cold_start
from umer1_core.store import Store
from umer1_core.template import training_prompt, training_response


def test_a_pair_is_published_only_if_both_sides_are_kept(judged):
    entries = publish_cold_start(judged, 5)
    assert sum(entry.rows for entry in entries) == 16
    rows = list(judged.iterate("cold_start"))
    assert Counter(row["source"] for row in rows) == dict.fromkeys(
        ["mmeb/CIRR", "mmeb/NIGHTS", "llava_hound/qa", "visrag/ChartQA"], 4
    )
    assert not any("bad" in row["target_prompt"] for row in rows)


def test_rows_are_ready_for_a_trainer(judged):
    publish_cold_start(judged, 100)
    pairs = {pair["pair_id"]: pair for pair in judged.iterate("pairs")}
    for row in judged.iterate("cold_start"):
        text = pairs[row["pair_id"]]["query"]["text"]
        assert row["query_prompt"] == training_prompt(text)
        assert row["query_response"] == training_response(f"seen {text}", "sum")
        assert (row["query_key"], row["target_media"]) == (pairs[row["pair_id"]]["query_key"], [])


def test_a_row_says_where_it_stood_and_whose_answers_these_are(judged):
    kept = Side("mmeb/CIRR t1")
    rows = [
        row | {"annotator": "second", "round": 2} if row["side_key"] == kept.key else row | {"annotator": "first"}
        for row in judged.iterate("annotations")
    ]
    judged.write_shard("annotations", "00000", rows)
    verdicts = [
        row | {"flags": ["commentary"]} if row["side_key"] == kept.key else row for row in judged.iterate("verdicts")
    ]
    judged.write_shard("verdicts", "00000", verdicts)
    pairs = [
        row | {"row": f"file#{i}"} for i, row in enumerate(judged.iterate("pairs")) if row["source"] == "mmeb/CIRR"
    ]
    judged.write_shard("pairs", "mmeb-CIRR-00000", pairs)
    publish_cold_start(judged, 100)
    rows = {row["query_prompt"].split("\n")[0]: row for row in judged.iterate("cold_start")}
    assert rows["mmeb/CIRR q1"]["flags"] == ["target:commentary"] and rows["mmeb/CIRR q2"]["flags"] == []
    places = {row["pair_id"]: row["row"] for row in pairs}
    assert rows["mmeb/CIRR q1"]["provenance"] == {
        "row": places[rows["mmeb/CIRR q1"]["pair_id"]], "query_annotator": "first", "query_sample": 0,
        "query_round": None, "target_annotator": "second", "target_sample": 0, "target_round": 2,
    }  # fmt: skip


def test_the_rows_and_their_shards_are_pinned(judged):
    """Golden: a change of these is a change of every data set, and of `_FORM` in tables.py and rl.py."""
    publish_cold_start(judged, 5)
    publish_rl(judged, Publishing(rl_pairs=9, rl_image_sources=[]), 0)
    assert {table: _pinned(judged, table) for table in ("cold_start", "rl")} == {
        "cold_start": "08aa5fdc4efb01c9", "rl": "d4fdc2365c6f03ef",
    }  # fmt: skip


def _pinned(store: Store, table: str) -> str:
    shards = [(entry.shard, entry.rows) for entry in store.entries(table)]
    return blake3(orjson.dumps([shards, list(store.iterate(table))])).hexdigest()[:16]


def test_what_was_written_before_an_interruption_is_kept(judged, monkeypatch):
    write, written = Store.write_shard, []

    def fails_at_the_third(self, *args, **kwargs):
        if len(written) == 2:
            raise StorageError("the disk is full")
        written.append(write(self, *args, **kwargs))
        return written[-1]

    monkeypatch.setattr(Store, "write_shard", fails_at_the_third)
    with pytest.raises(StorageError, match="full"):
        publish_cold_start(judged, 4, "a")
    monkeypatch.undo()
    stamps = {e.shard: judged.fs.modified(judged.at(f"cold_start/{e.shard}.parquet")) for e in written}
    publish_cold_start(judged, 4, "a")
    assert stamps == {shard: judged.fs.modified(judged.at(f"cold_start/{shard}.parquet")) for shard in stamps}
    assert judged.read("cold_start").num_rows == 16


def test_the_order_does_not_depend_on_the_shards(judged):
    publish_cold_start(judged, 3, "a")
    small = judged.read("cold_start")
    publish_cold_start(judged, 100, "b")
    assert judged.read("cold_start").equals(small)


def test_a_published_table_is_left_as_it_is_and_stale_shards_go(judged):
    first = publish_cold_start(judged, 3, "a")
    stamps = {entry.shard: judged.fs.modified(judged.at(f"cold_start/{entry.shard}.parquet")) for entry in first}
    assert publish_cold_start(judged, 3, "a") == first
    assert stamps == {e.shard: judged.fs.modified(judged.at(f"cold_start/{e.shard}.parquet")) for e in first}
    publish_cold_start(judged, 100, "b")
    assert [entry.shard for entry in judged.entries("cold_start")] == ["00000"]
    assert len(judged.fs.find(judged.at("cold_start"))) == 1


def test_many_parts_of_intermediate_rows_give_the_same_table(judged, monkeypatch):
    publish_cold_start(judged, 2, "a")
    whole = judged.read("cold_start")
    monkeypatch.setattr("umer1_core.publishing.tables._PARTS", 2)
    for entry in judged.entries("cold_start"):
        judged.delete(f"cold_start/{entry.shard}.parquet")
    publish_cold_start(judged, 2, "b")
    assert judged.read("cold_start").equals(whole)


def child_of(parent: Store) -> Store:
    """The same pairs, annotations and verdicts as a version of its own."""
    child = Store(f"{parent.root}-child")
    for table in ("pairs", "rejections", "sides", "annotations", "verdicts"):
        for entry in parent.entries(table):
            child.adopt(parent, entry)
    return child


def drop(store: Store, text: str) -> None:
    key = Side(text).key
    verdicts = store.iterate("verdicts")
    changed = [row | {"kept": False, "reasons": ["too_long"]} if row["side_key"] == key else row for row in verdicts]
    store.write_shard("verdicts", "00000", changed)


def inode(store: Store, entry) -> int:
    return os.stat(store.at(f"{entry.table}/{entry.shard}.parquet")).st_ino


def test_when_one_pair_drops_out_the_other_shards_are_the_parents_files(judged):
    before = {entry.shard: entry for entry in publish_cold_start(judged, 4, "a")}
    child = child_of(judged)
    drop(child, "mmeb/CIRR q1")
    after = {entry.shard: entry for entry in publish_cold_start(child, 4, "b", judged)}
    rewritten = [shard for shard in after if not after[shard].shared_with]
    assert len(rewritten) <= 1 and len(before) > 3
    shared = [shard for shard in after if after[shard].shared_with]
    assert all(inode(child, after[shard]) == inode(judged, before[shard]) for shard in shared)
    assert sum(entry.rows for entry in after.values()) == 15
    texts = [row["query_prompt"].split("\n")[0] for row in child.iterate("cold_start")]
    assert "mmeb/CIRR q1" not in texts


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("verdicts", {"summary": "another"}),
        ("verdicts", {"reasoning": "another"}),
        ("verdicts", {"flags": ["commentary"]}),
        ("annotations", {"annotator": "another"}),
        ("annotations", {"round": 7}),
    ],
)
def test_a_shard_is_not_shared_when_anything_in_its_rows_changed(judged, table, change):
    publish_cold_start(judged, 4, "a")
    child = child_of(judged)
    key = Side("mmeb/CIRR q1").key
    child.write_shard(table, "00000", [r | change if r["side_key"] == key else r for r in child.iterate(table)])
    after = publish_cold_start(child, 4, "b", judged)
    assert [bool(entry.shared_with) for entry in after].count(False) == 1
    publish_cold_start(fresh := child_of(child), 4, "c")
    assert fresh.read("cold_start").equals(child.read("cold_start"))


def test_a_moved_picture_is_a_changed_row_though_its_side_is_the_same(judged):
    publish_cold_start(judged, 100, "a")
    child = child_of(judged)
    rows = list(child.iterate("pairs"))
    rows = [row for row in rows if row["source"] == "mmeb/CIRR"]
    moved = {"kind": "image", "uri": "elsewhere.jpg", "frames": [], "notes": []}
    child.write_shard("pairs", "mmeb-CIRR-00000", [row | {"query": row["query"] | {"media": [moved]}} for row in rows])
    (entry,) = publish_cold_start(child, 100, "b", judged)
    assert not entry.shared_with
    assert any(row["query_media"] for row in child.iterate("cold_start"))


def test_a_pair_that_stands_twice_stops_it_with_a_sentence(judged):
    twice = [row for row in judged.iterate("pairs") if row["source"] == "mmeb/CIRR"]
    judged.write_shard("pairs", "mmeb-CIRR-00001", twice)
    with pytest.raises(StorageError, match="twice"):
        publish_cold_start(judged, 100)


def test_nothing_kept_is_one_empty_shard(judged):
    judged.write_shard("verdicts", "00000", [])
    (entry,) = publish_cold_start(judged, 5)
    assert (entry.shard, entry.rows) == ("00000", 0)
    assert publish_cold_start(judged, 5) == [entry]
