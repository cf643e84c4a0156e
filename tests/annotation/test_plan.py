"""A new version takes over what other versions paid for, and asks again for what it must."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.annotation.sides import settings, text_sides
from tests.annotation.stand_in import stand_in
from umer1_core.annotation.annotator import annotator_fingerprint
from umer1_core.annotation.engine import annotate_shard
from umer1_core.annotation.plan import ParentAnnotations, needs_reannotation, open_parent, pending_shards
from umer1_core.errors import StorageError
from umer1_core.pairs import Side
from umer1_core.store import Store

TEXTS = ["red circle", "blue square", "green star", "white moon"]
KEYS = {text: Side(text).key for text in TEXTS}


def annotation(text: str, sample: int = 0, **changes: object) -> dict:
    answer = {"completion": f"<answer>{text} {sample}</answer>", "finish_reason": "stop", "round": 0, "annotator": "a"}
    return {"side_key": KEYS[text], "sample": sample, "source": "own/x", "reason": "", "error": ""} | answer | changes


def dead_letter(text: str, reason: str) -> dict:
    return annotation(text, completion="", finish_reason="error", reason=reason, error="it went away")


def verdict(text: str, kept: bool, sample: int = 0) -> dict:
    return {
        "side_key": KEYS[text],
        "sample": sample,
        "kept": kept,
        "reasons": [] if kept else ["repetition"],
    }


def data_set(folder: Path, rows: list[dict], verdicts: list[dict] | None = None, shard: str = "00000") -> Store:
    store = Store(str(folder))
    store.write_shard("annotations", shard, rows, "f")
    if verdicts is not None:
        store.write_shard("verdicts", shard, verdicts)
    return store


def taken(parent: ParentAnnotations, texts: list[str] = TEXTS) -> dict[tuple[str, int], str]:
    rows, _ = parent.for_sides([KEYS[text] for text in texts])
    return {key: row["completion"] for key, row in rows.items()}


def rounds(parent: ParentAnnotations) -> dict[str, int]:
    return parent.for_sides(list(KEYS.values()))[1]


def test_a_changed_build_takes_over_every_answer_of_the_same_annotator_but_no_dead_letter(tmp_path):
    rows = [
        annotation("red circle"),
        annotation("blue square", annotator="another"),
        dead_letter("green star", "timeout"),
    ]
    store = data_set(tmp_path, rows, [verdict("red circle", kept=False)])
    parent = open_parent([store.root], "a", only_kept=False)
    assert set(taken(parent)) == {(KEYS["red circle"], 0)} and len(parent) == 1
    assert rounds(parent) == {}


def test_a_taken_row_is_the_whole_row_as_it_was_written(tmp_path):
    store = data_set(tmp_path, [annotation("red circle", prompt_tokens=7, seconds=0.5)])
    rows, _ = open_parent([store.root], "a", only_kept=False).for_sides({KEYS["red circle"]})
    assert rows == {(KEYS["red circle"], 0): store.read_shard("annotations", "00000").to_pylist()[0]}


def test_a_reannotation_asks_again_for_rejected_and_failed_sides_in_another_round(tmp_path):
    rows = [annotation("red circle"), annotation("blue square", round=2), dead_letter("green star", "timeout")]
    verdicts = [verdict("red circle", True), verdict("blue square", False), verdict("green star", False)]
    store = data_set(tmp_path, rows, verdicts)
    parent = open_parent([store.root], "a", only_kept=True)
    assert set(taken(parent)) == {(KEYS["red circle"], 0)}
    assert rounds(parent) == {KEYS["blue square"]: 3, KEYS["green star"]: 1}
    assert needs_reannotation(store, "a")


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_samples_of_a_side_those_that_were_kept_are_taken_over(tmp_path, order):
    rows = [annotation("red circle", sample) for sample in range(3)]
    verdicts = [verdict("red circle", sample != 1, sample) for sample in range(3)][::order]
    store = data_set(tmp_path, rows, verdicts)
    parent = open_parent([store.root], "a", only_kept=True)
    assert set(taken(parent)) == {(KEYS["red circle"], 0), (KEYS["red circle"], 2)}
    assert rounds(parent) == {KEYS["red circle"]: 1}


def test_only_the_sides_asked_for_are_read(tmp_path):
    store = data_set(tmp_path, [annotation(text) for text in TEXTS])
    parent = open_parent([store.root], "a", only_kept=False)
    assert set(taken(parent, ["green star"])) == {(KEYS["green star"], 0)} and len(parent) == len(TEXTS)


def test_rows_are_found_in_whatever_shard_of_the_parent_they_stand(tmp_path):
    for number, text in enumerate(TEXTS):
        data_set(tmp_path, [annotation(text)], shard=f"{number:05d}")
    assert len(taken(open_parent([str(tmp_path)], "a", only_kept=False))) == len(TEXTS)


def test_other_data_sets_add_what_the_parent_lacks_and_the_parent_comes_first(tmp_path):
    parent = data_set(tmp_path / "v1", [annotation("red circle")])
    other = data_set(tmp_path / "other", [annotation("red circle", completion="theirs"), annotation("blue square")])
    found = taken(open_parent([parent.root, other.root], "a", only_kept=False))
    assert found == {
        (KEYS["red circle"], 0): "<answer>red circle 0</answer>",
        (KEYS["blue square"], 0): "<answer>blue square 0</answer>",
    }


def test_sides_whose_keys_begin_alike_are_told_apart(tmp_path):
    twin = KEYS["red circle"][:16] + "0" * 16
    parent = open_parent([data_set(tmp_path, [annotation("red circle")]).root], "a", only_kept=False)
    assert parent.for_sides([twin]) == ({}, {}) and len(parent.for_sides([KEYS["red circle"]])[0]) == 1


def test_a_redrive_of_one_reason_leaves_the_other_dead_letters_as_they_are(tmp_path):
    rows = [annotation("red circle"), dead_letter("blue square", "timeout"), dead_letter("green star", "bad_input")]
    store = data_set(tmp_path, rows)
    found = taken(open_parent([store.root], "a", only_kept=False, redriven="timeout"))
    assert found == {(KEYS["red circle"], 0): "<answer>red circle 0</answer>", (KEYS["green star"], 0): ""}


def test_the_index_of_a_parent_is_made_once_for_all_shards(tmp_path):
    store = data_set(tmp_path, [annotation("red circle")])
    assert open_parent([store.root], "a", only_kept=False) is open_parent([store.root], "a", only_kept=False)
    assert open_parent([store.root], "a", only_kept=True) is not open_parent([store.root], "a", only_kept=False)


def test_a_parent_without_annotations_gives_nothing(tmp_path):
    parent = open_parent([str(tmp_path)], "a", only_kept=True)
    assert parent.for_sides(KEYS.values()) == ({}, {}) and parent.for_sides([]) == ({}, {})


def test_pending_are_the_shards_without_a_file_an_entry_or_the_fingerprint(tmp_path):
    for shard in ("00000", "00001", "00002"):
        store = data_set(tmp_path, [annotation("red circle")], shard=shard)
    store.fs.rm_file(store.at("annotations/00001.parquet"))
    wanted = dict.fromkeys(["00000", "00001", "00002", "00003"], "f") | {"00002": "of another recipe"}
    assert pending_shards(store, wanted) == ["00001", "00002", "00003"]
    assert pending_shards(Store(str(tmp_path / "none")), {"00000": "f"}) == ["00000"]


def test_a_parent_of_the_first_schema_version_is_taken_over_as_samples_0(tmp_path):
    rows = [annotation(text) for text in TEXTS]
    store = data_set(tmp_path, rows, [verdict(text, kept=text != "green star") for text in TEXTS])
    for table in ("annotations", "verdicts"):
        content = store.read_shard(table, "00000").drop_columns(["sample"])
        old = content.drop_columns(["reason"]) if table == "annotations" else content
        pq.write_table(old, store.at(f"{table}/00000.parquet"))
    parent = open_parent([store.root], "a", only_kept=True)
    assert set(taken(parent)) == {(KEYS[text], 0) for text in TEXTS if text != "green star"}
    assert rounds(parent) == {KEYS["green star"]: 1}


def test_a_parent_may_lie_in_an_object_store():
    store = Store("memory://plan/v1")
    store.write_shard("annotations", "00000", [annotation(text) for text in TEXTS], "f")
    assert len(taken(open_parent([store.root], "a", only_kept=True))) == len(TEXTS)
    assert pending_shards(store, {"00000": "f", "00001": "f"}) == ["00001"]


def test_a_damaged_shard_of_a_parent_is_named_with_its_remedy(tmp_path):
    store = data_set(tmp_path, [annotation("red circle")])
    store.write_bytes("annotations/00000.parquet", b"cut off")
    with pytest.raises(StorageError, match=r"annotations.*cannot be read.*Delete the damaged shard"):
        open_parent([store.root], "a", only_kept=False)


def test_the_engine_asks_only_for_what_is_not_taken_over_and_in_the_next_round(tmp_path):
    with stand_in() as address:
        asked = settings(address)
        annotator = annotator_fingerprint(asked)
        first = text_sides(tmp_path / "v1", TEXTS)
        annotate_shard(first, "00000", asked, asked.endpoints, tmp_path / "journal1", "f")
        first.write_shard("verdicts", "00000", [verdict(text, kept=text != "green star") for text in TEXTS])
        child = text_sides(tmp_path / "v2", [*TEXTS, "new side"])
        parent = open_parent([first.root], annotator, only_kept=True)
        entry = annotate_shard(child, "00000", asked, asked.endpoints, tmp_path / "journal2", "f", parent)
    assert (entry.rows, entry.metrics["reused"], entry.metrics["requests"]) == (5, 3, 2)
    round_ = {row["side_key"]: row["round"] for row in child.iterate("annotations")}
    assert round_ == {KEYS[text]: int(text == "green star") for text in TEXTS} | {Side("new side").key: 0}
