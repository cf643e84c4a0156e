"""The gate before training opens for a sound data set and for nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blake3 import blake3

from schemas.recipe import Validation
from schemas.tables import ADDED
from umer1_core.errors import ValidationFailed
from umer1_core.store import ShardEntry, Store, content_hash
from umer1_core.validation.expectations import Failure
from umer1_core.validation.summary import headline
from umer1_core.validation.totals import identities
from umer1_core.validation.validate import MARKER, ValidationOutcome, require_validated, validate

MakeStore = Callable[..., Store]
NEWER_SCORES = ["sample", "flags", "form", "repeat_profile", "burst_chars", "commentary_chars", "prompt_copy"]
SETTINGS = Validation(min_kept_fraction=0.5, max_error_fraction=0.05)


def data_hash(store: Store) -> str:
    return content_hash([*store.entries("cold_start"), *store.entries("rl")])


def run(store: Store, settings: Validation = SETTINGS) -> ValidationOutcome:
    return validate(store, settings, data_hash(store))


def only(shard: int, change: Callable[[list[dict[str, Any]]], None]) -> Callable[[list[dict[str, Any]], int], None]:
    """An edit of one shard's rows."""
    return lambda rows, number: change(rows) if number == shard else None


def test_a_good_data_set_is_validated_and_gets_a_marker_for_its_content(make_store: MakeStore) -> None:
    store = make_store()

    outcome = run(store)

    assert outcome.success, outcome.message
    marker = store.read_json(MARKER)
    assert marker["data_hash"] == data_hash(store)
    assert marker["expectations"] == outcome.expectations > 40
    assert headline(outcome) == f"valid: {outcome.expectations} expectations hold"
    require_validated(store, data_hash(store))


def test_a_shard_with_many_errors_fails_by_name_and_leaves_no_marker(make_store: MakeStore) -> None:
    def spoil(rows: list[dict[str, Any]]) -> None:
        for row in rows[:4]:
            row.update(finish_reason="error", completion="", error="timeout: no answer")

    store = make_store(annotations=only(1, spoil))

    outcome = run(store)

    (failure,) = outcome.failures
    assert failure.sentence == "annotations shard 00001: error_fraction 0.3333 is above 0.05"
    assert (failure.expectation, failure.where, failure.column, failure.observed) == (
        "expect_column_values_to_be_between",
        "annotations shard 00001",
        "error_fraction",
        pytest.approx(1 / 3, abs=1e-5),
    )
    assert not store.exists(MARKER)


def test_a_response_without_its_form_fails_in_its_shard_and_names_the_pair(make_store: MakeStore) -> None:
    store = make_store(cold_start=only(0, lambda rows: rows[2].update(query_response="<think>no end")))

    sentences = run(store).message

    assert "cold_start shard 00000: form_share is 0.9, not 1" in sentences
    (pair,) = [r["pair_id"] for r in store.iterate("cold_start") if r["query_response"] == "<think>no end"]
    assert f"cold_start pair {pair}: query_response does not have its form: '<think>no end'" in sentences


@pytest.mark.parametrize(
    ("table", "change", "sentence"),
    [
        (
            "cold_start",
            {"target_media": None},
            "cold_start shard 00001: missing_values is 1, not 0 (missing: 1 target_media)",
        ),
        ("cold_start", {"pair_id": "x" * 32}, "pair_id does not have its form"),
        ("cold_start", {"modality": "smell"}, "modality 'smell' is not one of image, video, visdoc"),
        ("cold_start", {"query_prompt": "no token"}, "query_prompt does not have its form: 'no token'"),
        ("verdicts", {"reasons": ["loop"]}, "verdicts shard 00001: contradictory_verdicts is 1, not 0"),
        ("sides", {"uses": 7}, "totals: the uses of the sides are two per pair: difference is 6, not 0"),
        ("rl", {"query_prompt": None}, "rl shard 00001: missing_values is 1, not 0 (missing: 1 query_prompt)"),
    ],
)
def test_each_fault_is_named_where_it_is(
    make_store: MakeStore, failures: Callable[..., list[Failure]], table: str, change: dict[str, Any], sentence: str
) -> None:
    store = make_store(**{table: only(1, lambda rows: rows[0].update(change))})

    found = "\n".join(map(str, failures(store, table, "totals", "sample")))

    assert sentence in found, found


def broken(store: Store) -> dict[str, int]:
    """The identities that do not hold, with their differences."""
    return {row["identity"]: row["difference"] for row in identities(store) if row["difference"]}


def drop(rows: list[dict[str, Any]]) -> None:
    rows.pop(3)


def repeat(**changes: Any) -> Callable[[list[dict[str, Any]]], None]:
    """An edit that adds the first row again, changed."""
    return lambda rows: rows.append(rows[0] | changes)


@pytest.mark.parametrize(
    ("table", "change", "identity"),
    [
        ("annotations", repeat(), "no sample of a side stands twice in annotations"),
        ("annotations", repeat(sample=1), "every annotation has a verdict"),
        ("verdicts", repeat(), "no sample of a side stands twice in verdicts"),
        ("verdicts", drop, "every annotation has a verdict"),
        ("attempts", drop, "every annotation that was asked for has its attempts"),
        ("attempts", repeat(side_key="f" * 32), "every attempt is of an annotation"),
    ],
)
def test_samples_verdicts_and_attempts_belong_together(
    make_store: MakeStore, table: str, change: Callable[[list[dict[str, Any]]], None], identity: str
) -> None:
    assert broken(make_store(**{table: only(1, change)})).get(identity) == -1


def test_a_side_with_several_samples_each_judged_and_asked_for_is_sound(make_store: MakeStore) -> None:
    again = repeat(sample=1)
    assert broken(make_store(annotations=only(1, again), verdicts=only(1, again), attempts=only(1, again))) == {}


def test_annotations_that_were_taken_over_need_no_attempts(make_store: MakeStore) -> None:
    store = make_store(attempts=only(1, drop))
    assert list(broken(store)) == ["every annotation that was asked for has its attempts"]

    store.write_shard("annotations", "00001", store.read_shard("annotations", "00001"), reused=1)

    assert broken(store) == {}


def test_an_attempt_without_a_known_outcome_is_named_by_its_shard(
    make_store: MakeStore, failures: Callable[..., list[Failure]]
) -> None:
    store = make_store(attempts=only(0, lambda rows: rows[0].update(outcome="maybe")))

    assert [str(each) for each in failures(store, "attempts")] == ["attempts shard 00000: unknown_outcomes is 1, not 0"]


def test_a_data_set_of_the_first_schema_version_is_still_sound(make_store: MakeStore) -> None:
    store = make_store()
    for entry in store.entries("attempts"):
        store.delete(f"entries/attempts/{entry.shard}.json")
    for table, columns in (("annotations", list(ADDED["annotations"])), ("verdicts", NEWER_SCORES)):
        for entry in store.entries(table):
            _rewrite_without(store, entry, columns)

    outcome = run(store)

    assert outcome.success, outcome.message


def _rewrite_without(store: Store, entry: ShardEntry, columns: list[str]) -> None:
    """The shard as the first schema version wrote it: without these columns, its entry naming its bytes."""
    sink = pa.BufferOutputStream()
    older = store.read_shard(entry.table, entry.shard).drop_columns(columns)
    pq.write_table(older.replace_schema_metadata({"umer1.schema_version": "1"}), sink)
    data = sink.getvalue().to_pybytes()
    store.write_bytes(store.shard_name(entry.table, entry.shard), data)
    changed = replace(entry, bytes=len(data), checksum=blake3(data).hexdigest())
    store.write_json(f"entries/{entry.table}/{entry.shard}.json", asdict(changed))


def test_a_pair_published_though_a_side_was_dropped_breaks_the_totals(make_store: MakeStore) -> None:
    store = make_store(verdicts=only(0, lambda rows: rows[0].update(kept=False, reasons=["loop"])))

    assert broken(store)["a pair is in cold_start when both its sides are kept, and only then"] == 1


def test_a_damaged_shard_fails_by_name_instead_of_raising(make_store: MakeStore) -> None:
    store = make_store()
    path = Path(store.at("cold_start/00001.parquet"))
    path.write_bytes(path.read_bytes()[:-40])

    outcome = run(store)

    assert [failure.where for failure in outcome.failures] == ["cold_start shard 00001"]
    assert "is not the one its entry names" in outcome.message


def test_too_few_pairs_and_too_few_kept_fail_by_the_recipe(
    make_store: MakeStore, failures: Callable[..., list[Failure]]
) -> None:
    found = failures(make_store(), "data set", min_pairs=100, min_kept_fraction=0.9)

    assert [str(each) for each in found] == [
        "data set v1: cold_start_pairs 10 is below 100",
        "data set v1: kept_fraction 0.8333 is below 0.9",
    ]


def test_a_failure_removes_the_marker_of_an_earlier_success(make_store: MakeStore) -> None:
    store = make_store()
    run(store)
    assert store.exists(MARKER)

    run(store, Validation(min_pairs=100))

    assert not store.exists(MARKER)


def test_a_data_set_that_was_not_validated_is_refused_with_what_to_do(make_store: MakeStore) -> None:
    with pytest.raises(ValidationFailed, match=r"has not been validated.*umer1 validate"):
        require_validated(make_store(), "any")


def test_a_validated_data_set_whose_content_changed_is_refused(make_store: MakeStore) -> None:
    store = make_store()
    run(store)
    store.write_shard("cold_start", "00001", store.read_shard("cold_start", "00001").slice(1))

    with pytest.raises(ValidationFailed, match=r"changed after it was validated.*umer1 validate"):
        require_validated(store, data_hash(store))


def test_the_data_docs_need_no_network_and_run_no_script(make_store: MakeStore) -> None:
    text = "<script>alert(1)</script><h1>big</h1>"
    store = make_store(cold_start=only(0, lambda rows: rows[0].update(query_response=text, modality=text)))

    outcome = run(store)

    pages = [Path(name) for name in store.fs.find(store.at("report/validation"))]
    assert Path(outcome.docs) in pages and len(pages) > 5
    for page in pages:
        html = page.read_text()
        assert "<script" not in html and "<h1>big" not in html
        assert not re.search(r'(src|href)="https?:', html)
        for link in re.findall(r'href="([^"#]+)"', html):
            assert (page.parent / link).exists() or link == "../index.html", f"{page.name} links to {link}"
