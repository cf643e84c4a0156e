"""A new version takes over what its parent paid for, and asks again for what it must."""

from pathlib import Path

from tests.annotation.sides import settings, text_sides
from tests.annotation.stand_in import read_stats, stand_in
from umer1_core.annotation.annotator import annotator_fingerprint, request_seed
from umer1_core.annotation.engine import annotate_shard
from umer1_core.annotation.plan import ParentAnnotations, needs_reannotation
from umer1_core.pairs import Side

TEXTS = ["red circle", "blue square", "green star"]


def verdict(text: str, kept: bool) -> dict:
    return {"side_key": Side(text).key, "kept": kept, "reasons": [] if kept else ["repetition"]}


def built_parent(folder: Path, address: str):
    store = text_sides(folder, TEXTS)
    annotate_shard(store, "00000", settings(address), [f"{address}/v1"], folder / "journal", "f")
    store.write_shard("verdicts", "00000", [verdict(t, kept=t != "green star") for t in TEXTS])
    return store


def test_a_changed_build_takes_over_every_answer_of_the_same_annotator(tmp_path):
    with stand_in() as address:
        parent = built_parent(tmp_path / "v1", address)
        annotator = annotator_fingerprint(settings(address))
        rows, rounds = ParentAnnotations(parent, annotator, only_kept=False).for_sides({Side(t).key for t in TEXTS})
        child = text_sides(tmp_path / "v2", [*TEXTS, "new side"])
        annotate_shard(child, "00000", settings(address), [f"{address}/v1"], tmp_path / "v2/journal", "f", rows, rounds)
        assert read_stats(address)["requests"] == len(TEXTS) + 1


def test_a_reannotation_asks_again_for_rejected_sides_in_another_round(tmp_path):
    with stand_in() as address:
        parent = built_parent(tmp_path / "v1", address)
    annotator = annotator_fingerprint(settings(address))
    rows, rounds = ParentAnnotations(parent, annotator, only_kept=True).for_sides({Side(t).key for t in TEXTS})
    assert set(rows) == {Side("red circle").key, Side("blue square").key}
    assert rounds == {Side("green star").key: 1}
    completion = settings(address).completion
    assert request_seed(Side("green star").key, completion, 0) != request_seed(Side("green star").key, completion, 1)
    assert needs_reannotation(parent, annotator)


def test_answers_of_another_annotator_are_not_taken_over(tmp_path):
    with stand_in() as address:
        parent = built_parent(tmp_path / "v1", address)
    rows, _ = ParentAnnotations(parent, "another", only_kept=False).for_sides({Side(t).key for t in TEXTS})
    assert rows == {}
