"""Other thresholds need neither a completion nor a tokenizer, and give what reading everything would give."""

import random
from dataclasses import asdict

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from schemas.recipe import Filters
from umer1_core.filtering import filter_shard, scores_fingerprint
from umer1_core.filtering.filter import score_shard
from umer1_core.filtering.verdicts import REASONS, stored_runs
from umer1_core.store import Store

BOX = "<think>a b</think><answer>red\n<|begin_of_box|>a red circle<|end_of_box|></answer>"
TEXTS = {
    "good": ("<think>a red circle</think><answer>circle</answer>", "stop"),
    "loop3": ("<think>" + "a b c d e f g " * 3 + "</think><answer>x</answer>", "stop"),
    "loop9": ("<think>" + "a b c d " * 9 + "</think><answer>x</answer>", "stop"),
    "box": (BOX, "stop"),
    "burst": ("<think>the 因为图像 shows</think><answer>x</answer>", "stop"),
    "long": (f"<think>a</think><answer>{' '.join(random.Random(0).choices('abcdefg', k=200))}</answer>", "stop"),
    "open": ("<think>never ends", "length"),
    "error": ("", "error"),
}
CHANGES = [
    {"repeat_min_count": 3.0, "repeat_min_tokens": 16},
    {"repeat_min_count": 8.0},
    {"max_reasoning_tokens": 5},
    {"preset": "strict"},
    {"preset": "strict", "max_summary_chars": 0, "drop_commentary": False},
    {"max_burst_chars": 100},
]


@pytest.fixture
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(
        models.WordLevel({"[UNK]": 0, **{letter: n for n, letter in enumerate("abcdefg", 1)}}, "[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def fill(store: Store) -> Store:
    shared = [{"side_key": key, "source": f"s/{key[0]}"} for key in TEXTS]
    store.write_shard("sides", "00000", [r | {"modality": "image", "uses": 2, "text": "", "media": []} for r in shared])
    rows = [
        row | {"sample": 0, "completion": text, "finish_reason": finish, "completion_tokens": 10}
        for row, (text, finish) in zip(shared, TEXTS.values(), strict=True)
    ]
    store.write_shard("annotations", "00000", rows)
    return store


@pytest.fixture
def filtered(tmp_path, tokenizer) -> Store:
    """A version whose shard was judged by the paper's filters."""
    store = fill(Store(str(tmp_path / "v1")))
    filter_shard(store, "00000", Filters(), tokenizer, "paper", scores_fingerprint(store, "00000", "t"))
    return store


def no_tokenizer() -> Tokenizer:
    raise AssertionError("the tokenizer was opened")


@pytest.mark.parametrize("change", CHANGES)
def test_it_equals_reading_everything(filtered, tokenizer, change):
    filters = Filters(**change)
    entry = filter_shard(filtered, "00000", filters, no_tokenizer, "new", scores_fingerprint(filtered, "00000", "t"))
    found = filtered.read_shard("verdicts", "00000")
    assert found.equals(score_shard(filtered, "00000", filters, tokenizer))
    assert entry.fingerprint == "new" and entry.metrics["kept"] == sum(found["kept"].to_pylist())


def test_the_thresholds_do_change_something(filtered):
    scores = scores_fingerprint(filtered, "00000", "t")
    entries = [filter_shard(filtered, "00000", Filters(**c), no_tokenizer, str(c), scores) for c in CHANGES]
    kept = [entry.metrics["kept"] for entry in entries]
    assert kept == [4, 5, 4, 2, 4, 5]


def test_a_count_that_was_not_profiled_is_read_from_the_completions(filtered, tokenizer):
    scores = scores_fingerprint(filtered, "00000", "t")
    with pytest.raises(AssertionError, match="opened"):
        filter_shard(filtered, "00000", Filters(repeat_min_count=2.5), no_tokenizer, "new", scores)
    filters = Filters(repeat_min_count=2.5, repeat_min_tokens=16)
    filter_shard(filtered, "00000", filters, tokenizer, "new", scores)
    assert stored_runs(filtered.read_shard("verdicts", "00000"), 2.5) is None
    reasons = {row["side_key"]: row["reasons"] for row in filtered.iterate("verdicts")}
    assert reasons["loop3"] == reasons["loop9"] == ["repetition"]


def test_other_completions_or_another_tokenizer_are_read(filtered):
    before = scores_fingerprint(filtered, "00000", "t")
    assert scores_fingerprint(filtered, "00000", "other") != before
    filtered.write_shard("annotations", "00000", [])
    assert scores_fingerprint(filtered, "00000", "t") != before
    with pytest.raises(AssertionError, match="opened"):
        filter_shard(filtered, "00000", Filters(), no_tokenizer, "new", scores_fingerprint(filtered, "00000", "t"))


def test_a_shard_whose_verdicts_stay_is_not_written_again(filtered):
    before = filtered.entry("verdicts", "00000")
    modified = filtered.fs.modified(filtered.at("verdicts/00000.parquet"))
    scores = scores_fingerprint(filtered, "00000", "t")
    entry = filter_shard(filtered, "00000", Filters(max_reasoning_tokens=8_000), no_tokenizer, "new", scores)
    assert filtered.fs.modified(filtered.at("verdicts/00000.parquet")) == modified
    assert asdict(entry) == asdict(before) | {"fingerprint": "new"} and filtered.entry("verdicts", "00000") == entry


@pytest.mark.parametrize(("change", "shared"), [({}, "v1"), ({"max_reasoning_tokens": 5}, "")])
def test_the_version_before_lends_its_scores_and_where_nothing_changed_its_shard(filtered, tmp_path, change, shared):
    child = fill(Store(str(tmp_path / "v2")))
    scores = scores_fingerprint(child, "00000", "t")
    entry = filter_shard(child, "00000", Filters(**change), no_tokenizer, "new", scores, filtered)
    assert entry.shared_with == shared
    assert entry.metrics["kept"] == (4 if change else 5)
    assert filtered.entry("verdicts", "00000").metrics["kept"] == 5


def test_a_damaged_shard_is_made_anew(filtered, tokenizer):
    filtered.write_bytes("verdicts/00000.parquet", b"no parquet")
    scores = scores_fingerprint(filtered, "00000", "t")
    assert filter_shard(filtered, "00000", Filters(), tokenizer, "new", scores).metrics["kept"] == 5


def test_every_reason_has_its_place_and_no_flag_is_a_reason(filtered):
    for change in CHANGES:
        scores = scores_fingerprint(filtered, "00000", "t")
        filter_shard(filtered, "00000", Filters(**change), no_tokenizer, str(change), scores)
        for row in filtered.iterate("verdicts"):
            assert set(row["reasons"]) | set(row["flags"]) <= set(REASONS)
            assert not set(row["reasons"]) & set(row["flags"]) and row["kept"] == (not row["reasons"])
            assert row["reasons"] == sorted(row["reasons"], key=REASONS.index)


def test_an_empty_shard_has_no_verdicts_and_can_be_judged_again(tmp_path, tokenizer):
    store = Store(str(tmp_path))
    for table in ("sides", "annotations"):
        store.write_shard(table, "00000", [])
    scores = scores_fingerprint(store, "00000", "t")
    first = filter_shard(store, "00000", Filters(), tokenizer, "a", scores)
    again = filter_shard(store, "00000", Filters(max_reasoning_tokens=1), no_tokenizer, "b", scores)
    assert (first.rows, again.rows) == (0, 0) and first.metrics == again.metrics
    assert first.metrics["reasons"] == first.metrics["flags"] == first.metrics["by_source"] == {}
