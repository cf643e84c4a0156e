"""The difference of two data sets is what changed in their tables, no more and no less."""

import io

import orjson
import pytest
from rich.console import Console

from schemas.recipe import Publishing
from tests.publishing.conftest import resample
from tests.publishing.test_tables import child_of, drop
from umer1_core.errors import StorageError
from umer1_core.pairs import Pair, Side, pair_id, pair_record
from umer1_core.publishing.diff import Difference, diff
from umer1_core.publishing.diff_show import difference_json, headline, print_difference
from umer1_core.publishing.rl import publish_rl
from umer1_core.publishing.tables import publish_cold_start
from umer1_core.store import Store


def finish(store: Store, parent: Store | None = None, **recipe) -> Store:
    publish_cold_start(store, 4, "f", parent)
    publish_rl(store, Publishing(rl_pairs=4, rl_image_sources=[]), 0, "f", parent)
    store.collect_manifest(
        recipe={"seed": 0, "filters": {"max_reasoning_tokens": 8192}, "sources": [{"limit": 5}]} | recipe
    )
    return store


@pytest.fixture
def a(judged: Store) -> Store:
    return finish(judged)


def kinds(difference: Difference) -> dict[str, int]:
    names = (
        "only_in_a",
        "only_in_b",
        "newly_kept",
        "newly_dropped",
        "answers_changed",
        "kept_in_both",
        "dropped_in_both",
    )
    return {name: count for name in names if (count := difference.total(name))}


def test_nothing_differs_from_itself(a):
    found = diff(a, a)
    assert kinds(found) == {"kept_in_both": 16, "dropped_in_both": 8}
    assert not found.examples and not found.settings and not any(s.rewritten or s.gone for s in found.shards)
    assert "24 pairs in both: nothing changed" in headline(found)


def test_newly_dropped_pairs_stand_by_source_and_reason_and_their_shard_is_the_rewritten_one(a):
    b = child_of(a)
    drop(b, "mmeb/CIRR q1")
    found = diff(a, finish(b, a))
    assert kinds(found) == {"newly_dropped": 1, "kept_in_both": 15, "dropped_in_both": 8}
    assert {s.source: s.reasons for s in found.sources if s.reasons} == {"mmeb/CIRR": {"too_long": 1}}
    shards = {s.table: s for s in found.shards}
    assert (shards["pairs"].shared, shards["pairs"].rewritten, shards["pairs"].gone) == (4, 0, 0)
    assert (shards["cold_start"].shared, shards["cold_start"].gone) == (len(a.entries("cold_start")) - 1, 1)
    (example,) = found.examples
    assert (example.kind, example.query, example.before.kept) == ("newly_dropped", "mmeb/CIRR q1", True)
    assert (example.after.kept, example.after.reasons, example.before.query_summary) == (False, ("too_long",), "sum")


def test_what_was_dropped_and_is_kept_is_newly_kept(a):
    b = child_of(a)
    resample(b, {"mmeb/CIRR bad": [True]})
    found = diff(a, finish(b))
    assert kinds(found) == {"newly_kept": 2, "kept_in_both": 16, "dropped_in_both": 6}
    assert {e.before.reasons for e in found.examples} == {("no_think", "repetition")}


@pytest.mark.parametrize(
    ("table", "change", "what"),
    [
        ("verdicts", {"summary": "another"}, "text"),
        ("annotations", {"round": 3}, "round"),
        ("annotations", {"annotator": "b"}, "annotator"),
    ],
)
def test_other_answers_are_told_apart_by_what_is_other(a, table, change, what):
    b = child_of(a)
    key = Side("mmeb/CIRR q1").key
    b.write_shard(table, "00000", [r | change if r["side_key"] == key else r for r in b.iterate(table)])
    found = diff(a, finish(b))
    assert kinds(found) == {"answers_changed": 1, "kept_in_both": 15, "dropped_in_both": 8}
    (changed,) = [s.changed for s in found.sources if any(s.changed.values())]
    assert {name for name, count in changed.items() if count} == {what}


def test_another_sample_is_another_answer(a):
    b = child_of(a)
    resample(b, {"mmeb/CIRR q1": [False, True]})
    (changed,) = [s.changed for s in diff(a, finish(b)).sources if any(s.changed.values())]
    assert changed["sample"] == 1 and changed["text"] == 1


def test_pairs_that_only_one_has(a):
    b = child_of(a)
    own = Pair(pair_id("own/x", "1"), "own/x", "image", Side("new q"), Side("new t"))
    b.write_shard("pairs", "own-x-00000", [pair_record(own)])
    found = diff(a, finish(b))
    assert kinds(found)["only_in_b"] == 1 and [e.before for e in found.examples] == [None]
    assert kinds(diff(b, a))["only_in_a"] == 1


def test_unrelated_data_sets_are_said_to_be(a, tmp_path):
    b = Store(str(tmp_path / "other"))
    b.write_shard("pairs", "x-00000", [pair_record(Pair("f" * 32, "own/x", "image", Side("q"), Side("t")))])
    found = diff(a, finish(b))
    assert (found.related, found.descends) == (0, False) and "unrelated" in headline(found)
    assert kinds(found) == {"only_in_a": 24, "only_in_b": 1}


def test_settings_that_differ_stand_by_field(a):
    b = finish(child_of(a), filters={"max_reasoning_tokens": 100}, sources=[{"limit": 6}], runner="ray")
    assert {(s.field, s.a, s.b) for s in diff(a, b).settings} == {
        ("filters.max_reasoning_tokens", 8192, 100), ("sources[0].limit", 5, 6), ("runner", None, "ray"),
    }  # fmt: skip


def test_a_child_descends_from_its_parent_and_not_the_other_way_round(tmp_path, judged):
    first, second = Store(str(tmp_path / "out/v1")), Store(str(tmp_path / "out/v2"))
    for store, parent in ((first, ""), (second, first.root)):
        for table in ("pairs", "annotations", "verdicts"):
            for entry in judged.entries(table):
                store.adopt(judged, entry)
        store.write_json("version.json", {"parent": parent})
        finish(store)
    assert (diff(first, second).descends, diff(second, first).descends) == (True, False)


def test_examples_are_seeded_and_spread_over_kinds_and_sources(a):
    b = child_of(a)
    for source in ("mmeb/CIRR", "mmeb/NIGHTS", "visrag/ChartQA"):
        drop(b, f"{source} q1")
        drop(b, f"{source} q2")
    resample(b, {"llava_hound/qa bad": [True]})
    finish(b)
    drawn = diff(a, b, examples=4).examples
    assert [e.kind for e in drawn].count("newly_kept") == 2 and len({e.source for e in drawn}) == 3
    assert diff(a, b, examples=4).examples == drawn
    assert len(diff(a, b).examples) == 8


def test_it_reads_in_a_terminal_and_as_json(a):
    b = child_of(a)
    drop(b, "mmeb/CIRR q1")
    found = diff(a, finish(b, a, seed=1))
    console = Console(file=io.StringIO(), width=200)
    print_difference(found, console)
    text = console.file.getvalue()
    assert "1 newly dropped" in text and "too_long" in text and "mmeb/CIRR q1" in text and "seed" in text
    assert orjson.loads(difference_json(found))["sources"][1]["reasons"] == {"too_long": 1}


def test_an_unfinished_data_set_is_refused(a, tmp_path):
    with pytest.raises(StorageError, match="no finished data set"):
        diff(a, Store(str(tmp_path / "nothing")))
