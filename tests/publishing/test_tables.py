"""Only pairs with two kept sides are published, ready for a trainer."""

from collections import Counter

import orjson
from blake3 import blake3

from umer1_core.publishing.tables import publish_cold_start, publish_rl
from umer1_core.store import Store
from umer1_core.template import training_prompt, training_response


def test_a_pair_is_published_only_if_both_sides_are_kept(judged):
    entries = publish_cold_start(judged, 5)
    assert [entry.rows for entry in entries] == [5, 5, 5, 1]
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


def test_one_sample_a_side_publishes_the_rows_that_were_published_before_there_were_samples(judged):
    """Golden: the rows and their shards as the first schema version's code wrote them."""
    publish_cold_start(judged, 5)
    publish_rl(judged, 9, [], 0, 4)
    assert {table: _digest(judged, table) for table in ("cold_start", "rl")} == {
        "cold_start": "a03d22ff1ca67800", "rl": "4ac12cedcb59df07",
    }  # fmt: skip


def _digest(store: Store, table: str) -> str:
    shards = [entry.rows for entry in store.entries(table)]
    return blake3(orjson.dumps([shards, list(store.iterate(table))])).hexdigest()[:16]


def test_the_order_does_not_depend_on_the_shards(judged):
    publish_cold_start(judged, 3, "a")
    small = judged.read("cold_start")
    publish_cold_start(judged, 100, "b")
    assert judged.read("cold_start").equals(small)


def test_a_published_table_is_left_as_it_is_and_stale_shards_go(judged):
    first = publish_cold_start(judged, 3, "a")
    stamp = judged.fs.modified(judged.at("cold_start/00000.parquet"))
    assert publish_cold_start(judged, 3, "a") == first
    assert judged.fs.modified(judged.at("cold_start/00000.parquet")) == stamp
    publish_cold_start(judged, 100, "b")
    assert [entry.shard for entry in judged.entries("cold_start")] == ["00000"]
    assert len(judged.fs.find(judged.at("cold_start"))) == 1


def test_rl_is_balanced_and_takes_rejected_pairs_first(judged):
    publish_rl(judged, 9, [], seed=0, shard_rows=100)
    rows = list(judged.iterate("rl"))
    assert Counter(row["modality"] for row in rows) == {"image": 3, "video": 3, "visdoc": 3}
    origins = Counter((row["source"], row["origin"]) for row in rows)
    assert origins["llava_hound/qa", "rejected"] == 2 and origins["llava_hound/qa", "cold_start"] == 1
    image = [row for row in rows if row["modality"] == "image"]
    assert {row["origin"] for row in image} == {"rejected"} and len({row["source"] for row in image}) == 2


def test_rl_images_come_only_from_the_named_sources(judged):
    publish_rl(judged, 100, ["mmeb/CIRR"], seed=0, shard_rows=100)
    assert {row["source"] for row in judged.iterate("rl")} == {"mmeb/CIRR", "llava_hound/qa", "visrag/ChartQA"}


def test_rl_is_the_same_for_the_same_seed_and_another_for_another(judged):
    def chosen(seed: int, fingerprint: str) -> list[str]:
        publish_rl(judged, 6, [], seed, 100, fingerprint)
        return [row["pair_id"] for row in judged.iterate("rl")]

    first = chosen(0, "a")
    assert chosen(0, "b") == first
    assert any(set(chosen(seed, f"c{seed}")) != set(first) for seed in range(1, 6))


def test_nothing_to_publish_is_an_empty_table(judged):
    (entry,) = publish_rl(judged, 0, [], 0, 100)
    assert (entry.shard, entry.rows) == ("00000", 0)


def test_a_table_read_in_many_windows_is_the_same(judged, monkeypatch):
    publish_cold_start(judged, 3, "a")
    whole = judged.read("cold_start")
    monkeypatch.setattr("umer1_core.query._WINDOW_ROWS", 4)
    entries = publish_cold_start(judged, 3, "b")
    assert judged.read("cold_start").equals(whole)
    assert [entry.rows for entry in entries] == [3, 3, 3, 3, 3, 1]
