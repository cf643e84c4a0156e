"""The gate cannot be passed in silence: exceptions, empty tables and values nobody measured fail it, readably."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.recipe import Validation
from umer1_core.store import Store
from umer1_core.template import parse_rollout
from umer1_core.validation import metrics
from umer1_core.validation.expectations import Failure, Frame, check
from umer1_core.validation.metrics import response_problems
from umer1_core.validation.summary import headline, to_markdown
from umer1_core.validation.validate import MARKER, validate

MakeStore = Callable[..., Store]
Failures = Callable[..., list[Failure]]
TABLES = ["pairs", "sides", "annotations", "verdicts", "cold_start", "rl"]


def only(shard: int, change: Callable[[list[dict[str, Any]]], None]) -> Callable[[list[dict[str, Any]], int], None]:
    return lambda rows, number: change(rows) if number == shard else None


def test_an_exception_inside_an_expectation_fails_with_its_message(tmp_path: Path) -> None:
    frame = Frame("numbers", [{"shard": "1", "count": "three"}, {"shard": "2", "count": 4}], "shard", "numbers shard")
    suite = [{"type": "expect_column_values_to_be_between", "kwargs": {"column": "count", "max_value": 5}}]

    (result,) = check([frame], {"numbers": suite}, tmp_path / "docs").checks

    (failure,) = result.failures
    assert failure.sentence.startswith("numbers shard: count cannot be checked (Column values, min_value")


def test_a_value_that_nobody_measured_fails(tmp_path: Path) -> None:
    suite = [{"type": "expect_column_values_to_be_between", "kwargs": {"column": "speed", "max_value": 5}}]
    frame = Frame("numbers", [{"shard": "1", "count": 3}], "shard", "numbers shard")

    (result,) = check([frame], {"numbers": suite}, tmp_path / "docs").checks

    assert "speed cannot be checked (it was not measured)" in result.failures[0].sentence


def test_a_metric_that_is_lost_fails_the_gate(
    make_store: MakeStore, failures: Failures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "side_metrics", lambda shard: {})

    found = map(str, failures(make_store(), "sides"))

    assert "sides shard: duplicate_side_keys cannot be checked (it was not measured)." in found


@pytest.mark.parametrize("table", TABLES)
def test_a_table_without_shards_fails_by_name(make_store: MakeStore, failures: Failures, table: str) -> None:
    store = make_store()
    for entry in store.entries(table):
        store.delete(f"entries/{table}/{entry.shard}.json")

    found = map(str, failures(store, "tables", min_pairs=0, min_kept_fraction=0))

    assert f"table {table}: shards 0 is below 1" in found


def test_a_data_set_without_pairs_fails_though_its_thresholds_are_zero(make_store: MakeStore) -> None:
    store = make_store(**{table: lambda rows, shard: rows.clear() for table in [*TABLES, "attempts"]})

    outcome = validate(store, Validation(min_pairs=0, min_kept_fraction=0, min_shard_kept_fraction=0), "hash")

    assert "table pairs: rows 0 is below 1" in outcome.message
    assert not store.exists(MARKER)


@pytest.mark.parametrize(
    ("table", "change", "sentence"),
    [
        ("verdicts", {"flags": ["loop"], "reasons": ["loop"], "kept": False}, "flags_that_are_reasons is 1, not 0"),
        ("verdicts", {"repeat_profile": [1, 2]}, "incomplete_repeat_profiles is 1, not 0"),
        ("verdicts", {"prompt_copy": None}, "verdicts shard 00001: null_scores is 1, not 0"),
        (
            "cold_start",
            {"provenance": None},
            "cold_start shard 00001: missing_values is 1, not 0 (missing: 1 provenance)",
        ),
        ("cold_start", {"query_key": "short"}, "cold_start shard 00001: malformed_keys is 1, not 0"),
        ("pairs", {"target": None}, "pairs shard 00001: missing_values is 1, not 0 (missing: 1 target)"),
        ("rl", {"block": None}, "rl shard 00001: missing_values is 1, not 0 (missing: 1 block)"),
    ],
)
def test_faults_in_newer_columns_are_named_by_their_shard(
    make_store: MakeStore, failures: Failures, table: str, change: dict[str, Any], sentence: str
) -> None:
    store = make_store(**{table: only(1, lambda rows: rows[0].update(change))})

    assert any(sentence in str(failure) for failure in failures(store, table))


def test_a_row_without_its_annotator_has_an_incomplete_provenance(make_store: MakeStore, failures: Failures) -> None:
    store = make_store(cold_start=only(0, lambda rows: rows[3]["provenance"].update(target_annotator=None)))
    (failure,) = failures(store, "cold_start")
    assert failure.sentence == "cold_start shard 00000: null_provenance_fields is 1, not 0"


def test_a_text_longer_than_allowed_is_named_by_its_shard(make_store: MakeStore, failures: Failures) -> None:
    found = failures(make_store(), "cold_start", max_chars=60)
    assert re.match(r"cold_start shard 00000: prompt_chars_max \d+ is above 60", str(found[0]))


def test_media_that_are_gone_are_found_by_the_sample(make_store: MakeStore, failures: Failures, tmp_path: Path) -> None:
    there, frames = tmp_path / "there.jpg", tmp_path / "clip"
    there.write_bytes(b"-")
    frames.mkdir()
    (frames / "1.jpg").write_bytes(b"-")

    def refer(rows: list[dict[str, Any]]) -> None:
        media = {"kind": "image", "member": "", "offset": -1, "frames": [], "content_hash": "", "notes": []}
        rows[0]["query_media"] = [media | {"uri": str(there)}]
        rows[1]["query_media"] = [media | {"uri": str(tmp_path / "gone.jpg")}]
        rows[2]["query_media"] = [media | {"kind": "video", "uri": str(frames), "frames": ["1.jpg", "2.jpg"]}]
        rows[3]["query_media"] = [media | {"kind": "video", "uri": str(frames), "frames": ["1.jpg"]}]

    store = make_store(cold_start=only(1, refer))
    named = [row["pair_id"] for row in store.read_shard("cold_start", "00001").to_pylist()]

    found = failures(store, "sample")

    assert {failure.where.rpartition(" ")[2] for failure in found} == {named[1], named[2]}
    assert {failure.column for failure in found} == {"media_missing"}


def test_the_sample_is_the_same_rows_whatever_the_shards_and_no_more_than_asked(make_store: MakeStore) -> None:
    from umer1_core.validation.sample import Sampler
    from umer1_core.validation.shard import open_shard

    store = make_store()
    entries = store.entries("cold_start")
    taken = []
    for order in (entries, entries[::-1]):
        sampler = Sampler(4, 10)
        for entry in order:
            shard = open_shard(store, entry)
            assert shard is not None
            sampler.look(shard)
        taken.append([row["pair_id"] for row in sampler.sample()])
    assert taken[0] == taken[1] and 1 <= len(taken[0]) <= 4


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think><answer>b\n<gen_emb>",
        "<think>a\n\nb</think><answer>c<gen_emb>",
        "<think> </think><answer>b<gen_emb>",
        "<think>a</think><answer> <gen_emb>",
        "<think>a<think>b</think><answer>c<gen_emb>",
        "<think>a</think><answer>b</answer><gen_emb>",
        "<think>a</think><answer>b<gen_emb><gen_emb>",
        "<think>a</think><answer><|begin_of_box|>b<|end_of_box|><gen_emb>",
        "<think>a</think><answer>b",
        "",
    ],
)
def test_the_fast_look_at_a_response_says_what_the_parser_says(text: str) -> None:
    import pyarrow as pa

    problem = parse_rollout(text).problem
    assert response_problems(pa.chunked_array([[text, None]])) == [each for each in (problem, "no_gen_emb") if each]


def test_the_docs_index_names_what_fails_first_and_every_expectation(make_store: MakeStore) -> None:
    outcome = validate(make_store(verdicts=only(1, lambda rows: rows[0].update(kept=None))), Validation(), "hash")

    html = Path(outcome.docs).read_text()

    assert html.index("verdicts shard 00001: null_kept is 1, not 0") < html.index("<h2>verdicts")
    assert html.index("<h2>verdicts") < html.index("<h2>pairs"), "groups that fail come first"
    assert html.count("<tr><td><code>") == outcome.expectations
    assert "expectations fail</span>" in html and "validation.min_shard_kept_fraction" in html


def test_the_artifact_is_readable_by_itself_with_the_failures_first(make_store: MakeStore) -> None:
    text = "a|b\n<img src=x>[link](javascript:1)"
    outcome = validate(make_store(cold_start=only(0, lambda rows: rows[0].update(modality=text))), Validation(), "hash")

    page = to_markdown(outcome, "hash", "http://127.0.0.1:1/x/validation/index.html")

    assert page.startswith(f"# {headline(outcome)}\n") and "expectations fail" in headline(outcome)
    assert page.index("## What fails") < page.index("## By group") < page.index("## Every expectation")
    assert "<img" not in page and "[link]" not in page and "[Data Docs](http://127.0.0.1:1/x" in page
    rows = [line for line in page.splitlines() if line.startswith("| sample |")]
    assert all(line.count("|") in (5, 6) for line in rows), "a value of the data breaks no row"
