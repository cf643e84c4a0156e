"""Every token is accounted for, by source and outcome."""

import pyarrow.parquet as pq

from schemas.tables import ATTEMPTS
from umer1_core.pairs import Side
from umer1_core.publishing.ledger import OUTCOMES, ledger
from umer1_core.store import Store

NOTHING = {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0}


def tally(requests: int, prompt: int, completion: int) -> dict[str, int]:
    return {"requests": requests, "prompt_tokens": prompt, "completion_tokens": completion}


def test_tokens_of_kept_sides_are_useful_and_equal_sides_save_some(judged):
    totals = {name: value for name, value in ledger(judged).items() if isinstance(value, int)}
    assert totals == {
        "sides": 44, "uses": 48, "annotated": 44, "failed": 0, "prompt_tokens": 4_400, "completion_tokens": 440,
        "useful_tokens": 400, "wasted_tokens": 40, "saved_generations": 4, "saved_tokens": 40,
    }  # fmt: skip


def test_the_account_of_a_source_adds_up_to_the_whole(judged):
    account = ledger(judged)
    assert list(account["by_source"]) == ["llava_hound/qa", "mmeb/CIRR", "mmeb/NIGHTS", "visrag/ChartQA"]
    for outcome in OUTCOMES:
        for name in NOTHING:
            parts = sum(source["outcomes"][outcome][name] for source in account["by_source"].values())
            assert account["outcomes"][outcome][name] == parts
    assert account["by_source"]["mmeb/CIRR"]["saved"]["equal_sides"] == tally(1, 100, 10)
    assert account["outcomes"]["rejected"] == tally(4, 400, 40)


def test_every_discarded_attempt_is_counted_under_what_was_wrong_with_it(judged):
    change(judged, "mmeb/CIRR q1", last=4, finish="stop")
    change(judged, "mmeb/CIRR q2", last=2, finish="length")
    change(judged, "mmeb/CIRR q3", last=3, finish="error")
    add_attempts(
        judged,
        ("mmeb/CIRR q1", 1, "cut", 9), ("mmeb/CIRR q1", 2, "transient", 0), ("mmeb/CIRR q1", 3, "loop", 8),
        ("mmeb/CIRR q1", 4, "ok", 10),
        ("mmeb/CIRR q2", 1, "malformed", 7), ("mmeb/CIRR q2", 2, "cut", 10),
        ("mmeb/CIRR q3", 1, "cut", 6), ("mmeb/CIRR q3", 2, "transient", 0), ("mmeb/CIRR q3", 3, "bad_input", 0),
    )  # fmt: skip

    account = ledger(judged)["by_source"]["mmeb/CIRR"]

    assert account["outcomes"]["cut"] == tally(2, 200, 15), "the cut completion that stands in the data set is not one"
    assert account["outcomes"]["loop"] == tally(1, 100, 8)
    assert account["outcomes"]["malformed"] == tally(1, 100, 7)
    assert account["outcomes"]["failed"] == tally(3, 300, 0)
    assert account["failed"] == 1 and account["annotated"] == 10
    wasted = sum(account["outcomes"][outcome]["completion_tokens"] for outcome in OUTCOMES if outcome != "useful")
    assert account["wasted_tokens"] == wasted == 10 + 15 + 8 + 7
    assert account["completion_tokens"] == account["useful_tokens"] + account["wasted_tokens"]


def test_what_an_earlier_version_paid_for_is_told_apart(judged):
    rows = [row for row in judged.iterate("attempts") if row["source"] != "mmeb/CIRR"]
    judged.write_shard("attempts", "00000", rows)
    account = ledger(judged)
    assert account["saved"]["taken_over"] == tally(11, 1_100, 110)
    assert account["by_source"]["mmeb/NIGHTS"]["saved"]["taken_over"] == NOTHING


def test_further_samples_of_a_side_are_no_saving(judged):
    """The shared side of CIRR serves two pairs; with two samples of 10 and 20 tokens nothing is saved."""
    key = Side("mmeb/CIRR bad").key
    before = ledger(judged)
    for table, change_ in (("annotations", {"completion_tokens": 20}), ("verdicts", {"kept": True, "reasons": []})):
        rows = list(judged.iterate(table))
        rows += [row | change_ | {"sample": 1} for row in rows if row["side_key"] == key]
        judged.write_shard(table, "00000", rows)
    after = ledger(judged)
    assert after["saved_generations"] == before["saved_generations"] - 1
    assert after["saved_tokens"] == before["saved_tokens"] - 10
    assert after["annotated"] == before["annotated"], "sides, not samples"
    assert after["useful_tokens"] == before["useful_tokens"] + 20, "the kept sample of a side whose other was dropped"
    assert after["wasted_tokens"] == before["wasted_tokens"]


def test_a_saved_generation_is_as_long_as_the_samples_of_its_side(judged):
    rows = list(judged.iterate("sides"))
    judged.write_shard("sides", "00000", [row | {"uses": 5 if row["text"] == "mmeb/CIRR q1" else 1} for row in rows])
    annotated = list(judged.iterate("annotations"))
    key = Side("mmeb/CIRR q1").key
    annotated += [row | {"sample": 1, "completion_tokens": 20} for row in annotated if row["side_key"] == key]
    judged.write_shard("annotations", "00000", annotated)
    assert ledger(judged)["saved"]["equal_sides"] == tally(3, 300, 45)


def test_a_data_set_of_the_first_schema_version_has_the_account_it_had(judged):
    expected = {name: value for name, value in ledger(judged).items() if isinstance(value, int)}
    for name in ("entries/attempts/00000.json", "attempts/00000.parquet"):
        judged.delete(name)
    for table in ("annotations", "verdicts"):
        old = judged.read_shard(table, "00000")
        old = old.drop_columns([name for name in ("sample", "reason") if name in old.column_names])
        pq.write_table(old, judged.at(f"{table}/00000.parquet"))
    account = ledger(judged)
    assert {name: value for name, value in account.items() if isinstance(value, int)} == expected
    assert account["saved"]["taken_over"] == NOTHING


def test_an_empty_data_set_has_an_empty_account(tmp_path):
    account = ledger(Store(str(tmp_path)))
    assert account["sides"] == 0 and account["by_source"] == {}


def change(store: Store, text: str, last: int, finish: str) -> None:
    """The annotation of a side took `last` attempts and ended so; its attempts are then added anew."""
    key = Side(text).key
    settled = {"attempts": last, "finish_reason": finish}
    settled |= {"completion_tokens": 0, "prompt_tokens": 0} if finish == "error" else {}
    rows = [row | settled if row["side_key"] == key else row for row in store.iterate("annotations")]
    store.write_shard("annotations", "00000", rows)
    store.write_shard("attempts", "00000", [row for row in store.iterate("attempts") if row["side_key"] != key])


def add_attempts(store: Store, *attempts: tuple[str, int, str, int]) -> None:
    rows = [
        {"side_key": Side(text).key, "sample": 0, "source": text.split(" ")[0], "attempt": number, "outcome": outcome}
        | {"prompt_tokens": 100, "completion_tokens": tokens}
        for text, number, outcome, tokens in attempts
    ]
    assert all(set(row) <= set(ATTEMPTS.names) for row in rows)
    store.write_shard("attempts", "00000", [*store.iterate("attempts"), *rows])
