"""A new version shares whole shards of annotations with its parent, and only where nothing in them is asked again."""

import os
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.annotation.sides import settings
from umer1_core.annotation.engine import annotate_shard
from umer1_core.annotation.inheritance import inherit_shards
from umer1_core.annotation.plan import open_parent
from umer1_core.pairs import Side
from umer1_core.store import Store

TEXTS = ["red circle", "blue square"]


def side_rows(texts: list[str], uses: int = 1) -> list[dict]:
    row = {"source": "own/x", "modality": "image", "uses": uses, "media": []}
    return [{"side_key": Side(text).key, "text": text} | row for text in texts]


def answer(text: str, sample: int = 0, **changes: object) -> dict:
    row = {"side_key": Side(text).key, "sample": sample, "source": "own/x", "completion": text, "annotator": "a"}
    return (
        row
        | {"finish_reason": "stop", "round": 0, "reason": "", "error": "", "prompt_tokens": 3, "completion_tokens": 5}
        | changes
    )


def verdict(text: str, kept: bool = True) -> dict:
    return {"side_key": Side(text).key, "sample": 0, "kept": kept, "reasons": [] if kept else ["repetition"]}


@pytest.fixture
def versions(tmp_path: Path):
    """v1 with its answers, and v2 of the same sides."""

    def make(answers: list[dict], verdicts: list[dict] | None = None, uses: int = 1) -> tuple[Store, Store]:
        parent = Store(str(tmp_path / "v1"))
        parent.write_json("version.json", {"parent": ""})
        Store(str(tmp_path / "v2")).write_json("version.json", {"parent": "/once/elsewhere/v1"})
        child = Store(str(tmp_path / "v2"))
        for store in (parent, child):
            store.write_shard("sides", "00000", side_rows(TEXTS, uses))
        parent.write_shard("annotations", "00000", answers, "theirs", requests=2)
        if verdicts is not None:
            parent.write_shard("verdicts", "00000", verdicts)
        return parent, child

    return make


def left(child: Store, only_kept: bool = False, samples: int = 1, redriven: str = "") -> list[str]:
    return inherit_shards(child, {"00000": "ours"}, "a", samples, only_kept, redriven)


def test_a_shard_with_every_answer_is_the_same_file_and_cost_nothing(versions):
    parent, child = versions([answer(text) for text in TEXTS])
    assert left(child) == []
    entry = child.entry("annotations", "00000", "ours")
    assert entry and entry.shared_with == "v1"
    assert (entry.metrics["requests"], entry.metrics["reused"], entry.metrics["prompt_tokens"]) == (0, 2, 6)
    assert os.path.samefile(parent.files("annotations")[0], child.files("annotations")[0])
    assert child.read("attempts").num_rows == 0


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"finish_reason": "error", "reason": "deadline"}, "a dead letter is asked again"),
        ({"annotator": "another"}, "another annotator's answer does not count"),
    ],
)
def test_a_shard_in_which_something_is_asked_again_is_not_shared(versions, changed, why):
    _, child = versions([answer(TEXTS[0]), answer(TEXTS[1], **changed)])
    assert left(child) == ["00000"], why
    assert child.entry("annotations", "00000") is None


def test_more_samples_than_the_parent_has_are_not_shared(versions):
    _, child = versions([answer(text) for text in TEXTS], uses=2)
    assert left(child, samples=2) == ["00000"]


def test_other_sides_under_the_same_number_are_not_shared(versions):
    _, child = versions([answer(text) for text in TEXTS])
    child.write_shard("sides", "00000", side_rows([TEXTS[0], "green star"]))
    assert left(child) == ["00000"]


@pytest.mark.parametrize(("kept", "expected"), [(True, []), (False, ["00000"])])
def test_a_reannotation_shares_what_passed_the_filters_in_full(versions, kept, expected):
    _, child = versions([answer(text) for text in TEXTS], [verdict(TEXTS[0]), verdict(TEXTS[1], kept)])
    assert left(child, only_kept=True) == expected


def test_a_reannotation_of_a_parent_without_verdicts_shares_nothing(versions):
    _, child = versions([answer(text) for text in TEXTS])
    assert left(child, only_kept=True) == ["00000"]


def test_a_redrive_shares_the_shards_without_its_reason(versions):
    _, child = versions([answer(TEXTS[0]), answer(TEXTS[1], finish_reason="error", reason="deadline")])
    assert left(child, redriven="server_error") == []


def test_a_version_without_parent_shares_nothing(tmp_path):
    assert left(Store(str(tmp_path))) == ["00000"]


def test_answers_that_came_with_a_source_are_taken_over_without_a_server(tmp_path):
    store, imported = Store(str(tmp_path / "v1")), Store(str(tmp_path / "v1/imported"))
    entry = store.write_shard("sides", "00000", side_rows(TEXTS))
    imported.write_shard("annotations", "released", [answer(text, annotator="imported:sft.json") for text in TEXTS])
    parent = open_parent([imported.root], "today's annotator", only_kept=False)
    assert parent.covers(store.read_shard("sides", "00000", ["side_key", "uses"]), 1)
    annotate_shard(store, "00000", settings("http://nobody"), [], tmp_path / "journal", entry.checksum, parent)
    assert store.read("annotations", ["completion"])["completion"].to_pylist() == TEXTS


def test_sides_without_an_answer_are_not_covered(tmp_path):
    store, imported = Store(str(tmp_path / "v1")), Store(str(tmp_path / "v1/imported"))
    store.write_shard("sides", "00000", side_rows(TEXTS))
    imported.write_shard("annotations", "released", [answer(TEXTS[0], annotator="imported:sft.json")])
    parent = open_parent([imported.root], "a", only_kept=False)
    assert not parent.covers(store.read_shard("sides", "00000", ["side_key", "uses"]), 1)


def test_an_entry_names_whom_it_shares_its_file_with(versions):
    _, child = versions([answer(text) for text in TEXTS])
    left(child)
    assert asdict(child.entries("annotations")[0])["shared_with"] == "v1"
