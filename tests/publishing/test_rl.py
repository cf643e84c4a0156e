"""The RL set: balanced, in blocks of one source, pairs outside the cold start first."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.recipe import Publishing
from tests.publishing.test_tables import child_of
from umer1_core.errors import RecipeError
from umer1_core.publishing.rl import publish_rl
from umer1_core.store import Store


def settings(size: int, **changes) -> Publishing:
    return Publishing(**{"rl_pairs": size, "rl_image_sources": [], "shard_rows": 100} | changes)


def by_source(store: Store) -> dict:
    (entry,) = store.entries("rl")
    return {row["source"]: row for row in entry.metrics["rl_table"]}


def test_modalities_are_equal_and_rejected_pairs_come_first(judged):
    publish_rl(judged, settings(9), seed=0)
    rows = list(judged.iterate("rl"))
    assert Counter(row["modality"] for row in rows) == {"image": 3, "video": 3, "visdoc": 3}
    origins = Counter((row["source"], row["origin"]) for row in rows)
    assert origins["llava_hound/qa", "rejected"] == 2 and origins["llava_hound/qa", "cold_start"] == 1
    image = [row for row in rows if row["modality"] == "image"]
    assert {row["origin"] for row in image} == {"rejected"} and len({row["source"] for row in image}) == 2


def test_pairs_come_in_blocks_of_one_source(judged):
    publish_rl(judged, settings(12, rl_block=2), seed=0)
    rows = list(judged.iterate("rl"))
    blocks = [row["block"] for row in rows]
    assert blocks == sorted(blocks) and Counter(blocks) == dict.fromkeys(range(6), 2)
    assert all(len({row["source"] for row in rows if row["block"] == block}) == 1 for block in range(6))


def test_blocks_shrink_until_every_source_can_give_one(judged):
    (entry,) = publish_rl(judged, settings(24, rl_block=32), seed=0)
    assert entry.metrics["block"] == 2 and entry.rows == 24
    assert Counter(row["source"] for row in judged.iterate("rl")) == Counter(dict.fromkeys(by_source(judged), 6))


def test_the_table_says_what_was_asked_and_what_was_short(judged):
    pairs = [row for row in judged.iterate("pairs") if row["source"] == "mmeb/CIRR"]
    judged.write_shard("pairs", "mmeb-CIRR-00000", pairs[:1])
    publish_rl(judged, settings(12, rl_block=1), seed=0)
    row = by_source(judged)["mmeb/CIRR"]
    assert (row["modality"], row["dataset"], row["available"], row["taken"]) == ("image", "mmeb/CIRR", 1, 1)
    assert row["short_of"] == row["asked"] - 1 > 0
    video = by_source(judged)["llava_hound/qa"]
    assert (video["outside_sft"], video["taken"], video["taken_outside_sft"], video["short_of"]) == (2, 4, 2, 0)
    assert by_source(judged)["visrag/ChartQA"]["dataset"] == "visrag"


def test_images_come_only_from_the_named_sources(judged):
    publish_rl(judged, settings(100, rl_image_sources=["mmeb/CIRR"]), seed=0)
    assert {row["source"] for row in judged.iterate("rl")} == {"mmeb/CIRR", "llava_hound/qa", "visrag/ChartQA"}


def test_the_same_for_the_same_seed_and_another_for_another(judged):
    def chosen(seed: int, made_with: str) -> list[str]:
        publish_rl(judged, settings(6), seed, made_with)
        return [row["pair_id"] for row in judged.iterate("rl")]

    first = chosen(0, "a")
    assert chosen(0, "b") == first
    assert any(set(chosen(seed, f"c{seed}")) != set(first) for seed in range(1, 6))


def test_neither_the_order_of_rows_nor_the_shards_matter(judged):
    publish_rl(judged, settings(12, rl_block=2), seed=3)
    first = judged.read("rl")
    rows = list(judged.iterate("pairs"))
    for entry in judged.entries("pairs"):
        judged.delete(f"entries/pairs/{entry.shard}.json")
    judged.write_shard("pairs", "all-00000", rows[::-2])
    judged.write_shard("pairs", "all-00001", [row for row in rows if row not in rows[::-2]])
    judged.write_shard("verdicts", "00000", list(judged.iterate("verdicts"))[::-1])
    publish_rl(judged, settings(12, rl_block=2), seed=3)
    assert judged.read("rl").equals(first)


def test_shards_hold_whole_blocks_in_order(judged):
    publish_rl(judged, settings(12, rl_block=2), seed=0)
    whole = judged.read("rl")
    entries = publish_rl(judged, settings(12, rl_block=2, shard_rows=5), seed=0, made_with="b")
    assert [entry.rows for entry in entries] == [4, 4, 4]
    assert judged.read("rl").equals(whole)


def test_an_unchanged_set_is_the_parents_file(judged):
    publish_rl(judged, settings(6), 0, "a")
    (entry,) = publish_rl(child_of(judged), settings(6), 0, "b", judged)
    assert entry.shared_with == judged.root.rpartition("/")[2]
    (other,) = publish_rl(child_of(judged), settings(8), 0, "c", judged)
    assert not other.shared_with


def ranked(judged: Store, folder: Path, ranks: dict[str, int]) -> str:
    file = folder / "ranks.parquet"
    pq.write_table(pa.table({"pair_id": list(ranks), "rank": list(ranks.values())}), file)
    return str(file)


def test_only_pairs_whose_rank_lies_in_the_band_are_taken_and_the_others_counted(judged, tmp_path):
    names = [row["pair_id"] for row in judged.iterate("pairs") if row["source"] == "llava_hound/qa"]
    ranks = ranked(judged, tmp_path, dict(zip(names[:5], [1, 2, 3, 50, 60], strict=True)))
    publish_rl(judged, settings(100, rl_ranks=ranks, rl_rank_band=(2, 50)), seed=0)
    assert {row["pair_id"] for row in judged.iterate("rl")} == {names[1], names[2], names[3]}
    row = by_source(judged)["llava_hound/qa"]
    assert (row["available"], row["unranked"], row["outside_band"]) == (3, 1, 2)
    assert by_source(judged)["mmeb/CIRR"]["unranked"] == 6


def test_changed_ranks_are_another_set(judged, tmp_path):
    names = [row["pair_id"] for row in judged.iterate("pairs")]
    for chosen in (names[0], names[1]):
        publish_rl(judged, settings(100, rl_ranks=ranked(judged, tmp_path, {chosen: 1})), 0, "same")
        assert [row["pair_id"] for row in judged.iterate("rl")] == [chosen]


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"pair": ["a"]}),
        pa.table({"pair_id": ["a"], "rank": ["first"]}),
        pa.table({"pair_id": ["a", "a"], "rank": [1, 2]}),
    ],
)
def test_ranks_that_cannot_be_used_are_named(judged, tmp_path, table):
    pq.write_table(table, tmp_path / "ranks.parquet")
    with pytest.raises(RecipeError, match=r"publishing\.rl_ranks: .*ranks\.parquet"):
        publish_rl(judged, settings(6, rl_ranks=str(tmp_path / "ranks.parquet")), 0)
    with pytest.raises(RecipeError, match="absent"):
        publish_rl(judged, settings(6, rl_ranks=str(tmp_path / "absent.parquet")), 0)


def test_nothing_to_publish_is_an_empty_table(judged):
    (entry,) = publish_rl(judged, settings(0), 0)
    assert (entry.shard, entry.rows) == ("00000", 0)
