"""Pairs by the samples of their sides: kept by one, counted once, the samples used evenly."""

from collections import Counter

from schemas.recipe import Publishing
from tests.publishing.conftest import resample
from umer1_core.pairs import Side
from umer1_core.publishing.funnel import funnel
from umer1_core.publishing.gallery import draw_pairs
from umer1_core.publishing.rl import publish_rl
from umer1_core.publishing.tables import publish_cold_start
from umer1_core.store import Store

SHARED = "mmeb/CIRR bad"  # the target of two pairs of this source
SUMMARIES = ("query_response", "target_response")


def taken(store: Store) -> Counter[str]:
    """The samples that the pairs of the shared side took."""
    publish_cold_start(store, 5, "again")
    found = [row["target_response"] for row in store.iterate("cold_start") if row["target_key"] == Side(SHARED).key]
    return Counter(text.split("<answer>")[1].split("\n")[0] for text in found)


def test_a_pair_takes_a_kept_sample_and_never_a_dropped_one(judged):
    resample(judged, {SHARED: [False, True, False]})
    assert taken(judged) == {"sample 1": 2}


def test_the_uses_of_a_side_spread_evenly_over_its_kept_samples(judged):
    resample(judged, {SHARED: [True, False, True]})
    assert taken(judged) == {"sample 0": 1, "sample 2": 1}


def test_the_choice_does_not_depend_on_shards_or_the_order_of_rows(judged):
    resample(judged, {SHARED: [True, True, True], "mmeb/CIRR q1": [True, True]})
    publish_cold_start(judged, 5, "a")
    first = judged.read("cold_start")
    rows = list(judged.iterate("verdicts"))
    judged.write_shard("verdicts", "00000", rows[::2])
    judged.write_shard("verdicts", "00001", rows[1::2][::-1])
    publish_cold_start(judged, 3, "b")
    assert judged.read("cold_start").equals(first)


def test_samples_do_not_multiply_pairs(judged):
    before = {row.source: row for row in funnel(judged)}
    resample(judged, {SHARED: [False, False, False], "mmeb/CIRR q1": [True, True, True]})
    entries = publish_cold_start(judged, 100, "x")
    publish_rl(judged, Publishing(rl_pairs=100, rl_image_sources=[]), 0, "x")
    after = {row.source: row for row in funnel(judged)}["mmeb/CIRR"]
    assert (after.pairs, after.kept, after.dropped_pairs) == (6, 4, 2) == (
        before["mmeb/CIRR"].pairs, before["mmeb/CIRR"].kept, before["mmeb/CIRR"].dropped_pairs,
    )  # fmt: skip
    assert entries[0].rows == 16 and after.rl == 6


def test_a_dropped_pair_has_the_reasons_of_all_samples_of_its_dropped_side(judged):
    resample(judged, {SHARED: [False, False, False], "mmeb/CIRR q0": [False, True]})
    row = next(row for row in funnel(judged) if row.source == "mmeb/CIRR")
    assert row.dropped == {"no_think": 2, "too_long": 2, "repetition": 2}, "each once a pair; none of a kept side"


def test_the_gallery_shows_the_sample_that_is_published(judged):
    resample(judged, {SHARED: [True, False, True]})
    publish_cold_start(judged, 100, "x")
    published = {row["pair_id"]: row["target_response"] for row in judged.iterate("cold_start")}
    shown = {card.pair_id: card.sides[1].summary for card in draw_pairs(judged, 0) if card.status == "kept"}
    assert set(shown.values()) == {"sum", "sample 0", "sample 2"}
    assert all(f"<answer>{summary}\n" in published[pair] for pair, summary in shown.items())


def test_the_gallery_shows_every_reason_against_a_dropped_side(judged):
    resample(judged, {SHARED: [False, False]})
    cards = [card for card in draw_pairs(judged, 0) if card.source == "mmeb/CIRR" and card.status == "dropped"]
    assert [card.reasons for card in cards] == [("no_think", "too_long")] * 2
