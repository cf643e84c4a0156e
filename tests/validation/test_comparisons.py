"""What the gate compares: with the parent version, published counts and held-out pairs; the balance of the RL set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schemas.recipe import Validation
from umer1_core.pairs import Media, Pair, Side, pair_record
from umer1_core.store import Store
from umer1_core.validation import sources
from umer1_core.validation.expectations import Failure
from umer1_core.validation.sources import modality_metrics, published_metrics
from umer1_core.validation.validate import parent_of, validate_version

MakeStore = Callable[..., Store]
Failures = Callable[..., list[Failure]]


@pytest.fixture(autouse=True)
def _few_pairs_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "COMPARED_PAIRS", 5)


def parent_with(root: Path, kept: int, pairs: int = 100) -> Store:
    store = Store(str(root / "v0"))
    row = {"source": "mmeb/OK-VQA", "modality": "image", "pairs": pairs, "kept": kept}
    store.write_json("manifest.json", {"funnel": [row], "data_hash": "old"})
    return store


def test_a_source_whose_kept_share_moved_is_named_with_both_shares(
    make_store: MakeStore, failures: Failures, tmp_path: Path
) -> None:
    (failure,) = failures(make_store(), "sources", parent=parent_with(tmp_path, kept=20))

    assert failure.where == "source mmeb/OK-VQA"
    assert "kept_drift 0.6333 is above 0.2" in failure.sentence
    assert "10 of 12 pairs kept (83.3%); 20.0% in the parent" in failure.sentence


@pytest.mark.parametrize(("kept", "pairs"), [(70, 100), (1, 4)])
def test_a_small_move_or_a_small_parent_is_no_drift(
    make_store: MakeStore, failures: Failures, tmp_path: Path, kept: int, pairs: int
) -> None:
    assert not failures(make_store(), "sources", parent=parent_with(tmp_path, kept, pairs))


def test_rows_that_could_not_be_read_fail_under_their_source_with_the_reasons(
    make_store: MakeStore, failures: Failures
) -> None:
    store = make_store()
    rejected = {"media_missing": 3, "corrupt_image": 1, "duplicate_row": 50}
    row = {"source": "mmeb/OK-VQA", "modality": "image", "pairs": 12, "kept": 10, "rejected": rejected}
    store.write_json("manifest.json", {"funnel": [row]})

    (failure,) = failures(store, "sources")

    assert failure.where == "source mmeb/OK-VQA" and failure.observed == 0.25
    assert "rejected_fraction 0.25 is above 0.2" in failure.sentence
    assert "4 rows rejected: media_missing 3, corrupt_image 1" in failure.sentence
    assert not failures(store, "sources", max_rejected_fraction=0.25)


def test_a_source_that_gave_no_pair_at_all_is_missed(make_store: MakeStore, failures: Failures) -> None:
    store = make_store()
    row = {"source": "own/mine", "modality": "image", "pairs": 0, "kept": 0, "rejected": {"media_missing": 7}}
    store.write_json("manifest.json", {"funnel": [row]})

    found = {failure.column: failure for failure in failures(store, "sources")}

    assert found.keys() == {"pairs", "rejected_fraction"}
    assert {failure.where for failure in found.values()} == {"source own/mine"}


def test_a_version_is_validated_again_against_its_parent_wherever_it_was_moved(
    make_store: MakeStore, tmp_path: Path
) -> None:
    store = make_store()
    store.write_json("manifest.json", {"parent": "s3://elsewhere/v0", "data_hash": "hash", "tables": {}})
    assert parent_of(store) is None, "the parent was not moved with it"
    parent = parent_with(tmp_path, kept=20)
    assert parent_of(store) is None, "the parent never met its expectations"
    parent.write_json("_VALIDATED.json", {})

    assert "in the parent" in validate_version(store, Validation()).message


def test_the_measure_is_the_nearest_ancestor_that_met_its_expectations(tmp_path: Path) -> None:
    for number in range(4):
        store = Store(str(tmp_path / f"v{number}"))
        store.write_json("manifest.json", {"parent": f"/old/v{number - 1}" if number else ""})
        if number < 2:
            store.write_json("_VALIDATED.json", {})

    found = parent_of(store)

    assert found is not None and found.root.endswith("v1")


def with_media(store: Store, hashes: dict[int, str]) -> Store:
    """Pairs of the second shard show pictures of these hashes; sides and keys stay as they are."""
    rows = store.read_shard("pairs", "00001").to_pylist()
    for number, content in hashes.items():
        rows[number]["target"]["media"] = [media_record(content)]
    store.write_shard("pairs", "00001", rows)
    return store


def media_record(content: str) -> dict[str, Any]:
    pair = Pair("0" * 32, "x", "image", Side("", (Media("image", "/a.jpg", content_hash=content),)), Side("t"))
    return pair_record(pair)["query"]["media"][0]


def held_out_with(root: Path, *pairs: Pair) -> Store:
    store = Store(str(root / "held_out"))
    store.write_shard("pairs", "eval-00000", [pair_record(pair) for pair in pairs])
    return store


def test_pairs_that_show_a_held_out_picture_fail_under_their_source(
    make_store: MakeStore, failures: Failures, tmp_path: Path
) -> None:
    store = with_media(make_store(), {0: "seen", 2: "seen", 3: "other"})
    held = Pair("9" * 32, "eval", "image", Side("?", (Media("image", "/other.jpg", content_hash="seen"),)), Side("a"))

    (failure,) = failures(store, "sources", held_out=held_out_with(tmp_path, held))

    assert failure.where == "source mmeb/OK-VQA" and failure.column == "leaked_fraction"
    assert failure.observed == pytest.approx(2 / 12) and "2 show held-out media" in failure.sentence
    assert not failures(store, "sources", held_out=held_out_with(tmp_path, held), max_leaked_fraction=0.2)


def test_a_pair_that_is_a_held_out_pair_leaks_though_it_has_no_media(
    make_store: MakeStore, failures: Failures, tmp_path: Path
) -> None:
    store = make_store()
    row = store.read_shard("pairs", "00000").to_pylist()[1]
    twin = Pair("9" * 32, "eval", "image", Side(row["query"]["text"]), Side(row["target"]["text"]))
    half = replace(twin, target=Side("another answer"))

    assert not failures(store, "sources", held_out=held_out_with(tmp_path, half)), "an equal query alone is no leak"
    (failure,) = failures(store, "sources", held_out=held_out_with(tmp_path, twin))
    assert "1 are held-out pairs" in failure.sentence


def test_media_without_a_hash_are_equal_to_nothing(make_store: MakeStore, failures: Failures, tmp_path: Path) -> None:
    held = Pair("9" * 32, "eval", "image", Side("?", (Media("image", "/b.jpg"),)), Side("a"))
    store = with_media(make_store(), {0: ""})
    assert not failures(store, "sources", held_out=held_out_with(tmp_path, held))


def test_kept_shares_are_held_against_the_published_ones_only_when_asked(
    make_store: MakeStore, failures: Failures
) -> None:
    assert not failures(make_store(), "published", published_rates=True), "83 % of OK-VQA is within 15 points of 91 %"
    rows = [{"source": f"visrag/{name}", "pairs": 50, "kept": kept} for name, kept in (("A", 50), ("B", 10))]
    (row,) = published_metrics(rows)
    assert row["source"] == "visrag" and row["points_off_published"] == pytest.approx(abs(60 - 66.58), abs=0.01)


def test_a_published_share_far_off_fails_by_source(
    make_store: MakeStore, failures: Failures, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = {"mmeb/OK-VQA": replace(sources.PUBLISHED["mmeb/OK-VQA"], released=900)}
    monkeypatch.setattr(sources, "PUBLISHED", far)

    (failure,) = failures(make_store(), "published", published_rates=True)

    assert failure.where == "source mmeb/OK-VQA"
    assert "points_off_published 73.33 is above 15 (kept 83.3% of 12, published 10.0% of 9,000)" in failure.sentence
    assert not failures(make_store(), "published")


def test_a_modality_with_less_than_its_part_though_it_has_more_fails(make_store: MakeStore, failures: Failures) -> None:
    store = make_store(rl=lambda rows, shard: rows.extend(dict(rows[0], pair_id=f"{shard}{n}" * 16) for n in range(3)))
    table = [{"modality": "image", "available": 8}, {"modality": "video", "available": 50}]
    store.write_json("manifest.json", {"rl_table": table, "data_hash": "x"})

    by_modality = {row["modality"]: row["rl_balance"] for row in modality_metrics(store)}

    assert by_modality == {"image": 2.0, "video": 0.0}
    (failure,) = failures(store, "modalities")
    assert failure.sentence == (
        "RL pairs of modality video: rl_balance 0 is below 0.5 (0 pairs of 50; an equal part were 4)"
    )


def test_a_modality_that_gave_all_it_had_is_balanced(make_store: MakeStore) -> None:
    store = make_store()
    store.write_json("manifest.json", {"rl_table": [{"modality": "image", "available": 2}], "data_hash": "x"})
    assert modality_metrics(store)[0]["rl_balance"] == 1.0


def test_a_block_of_two_sources_is_named(make_store: MakeStore, failures: Failures) -> None:
    store = make_store(rl=lambda rows, shard: rows[0].update(block=7, source=f"mmeb/{shard}"))
    assert [str(each) for each in failures(store, "blocks")] == ["rl block 7: sources is 2, not 1"]


def test_a_block_that_is_not_whole_is_named(make_store: MakeStore, failures: Failures) -> None:
    store = make_store(rl=lambda rows, shard: rows[0].update(block=shard))
    store.write_json("manifest.json", {"rl_block": 1})
    assert not failures(store, "blocks")
    store.write_json("manifest.json", {"rl_block": 2})
    assert "rl block 1: lacking_pairs is 1, not 0" in map(str, failures(store, "blocks"))


def test_sources_too_small_for_a_block_have_nothing_to_give(make_store: MakeStore) -> None:
    store = make_store()
    table = [{"modality": "image", "available": 9}, *({"modality": "visdoc", "available": 3} for _ in range(5))]
    store.write_json("manifest.json", {"rl_table": table, "rl_block": 4})
    assert [row["modality"] for row in modality_metrics(store)] == ["image"]


def test_sides_that_repeat_another_pairs_are_counted_by_source(make_store: MakeStore, failures: Failures) -> None:
    def repeat(rows: list[dict[str, Any]], shard: int) -> None:
        for row in rows[1:4]:
            row.update(query_key=rows[0]["query_key"], target_key=rows[0]["target_key"])

    (failure,) = failures(make_store(pairs=repeat), "sources")

    assert failure.sentence.startswith("source mmeb/OK-VQA: repeated_fraction 0.5 is above 0.1")
