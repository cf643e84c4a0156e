"""Annotations become verdicts that hide no reason."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from schemas.recipe import Filters
from umer1_core.errors import RecipeError
from umer1_core.filtering import filter_shard, load_tokenizer, tokenizer_identity
from umer1_core.filtering.form import form_reasons, was_cut
from umer1_core.filtering.length import too_long
from umer1_core.filtering.tokens import encode
from umer1_core.store import Store
from umer1_core.template import parse_annotation

GOOD = "<think>a red circle lies on a table</think><answer>red circle</answer>"


@pytest.fixture
def tokenizer() -> Tokenizer:
    """A word is a token; so is every punctuation mark."""
    words = ["a", "red", "circle", "lies", "on", "table", "loop", "think"]
    vocabulary = {"[UNK]": 0} | {word: number for number, word in enumerate(words, 1)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.fixture
def verdicts(tmp_path, tokenizer):
    """Filter completions given as {side: (completion, finish_reason)}; the side named `absent` has no annotation."""

    def run(completions: dict[str, tuple[str, str]], **settings):
        store = Store(str(tmp_path))
        shared = [{"side_key": key, "source": f"s/{key[0]}"} for key in completions]
        sides = [row | {"modality": "image", "uses": 2, "text": "", "media": []} for row in shared]
        store.write_shard("sides", "00000", sides)
        annotated = [
            row | {"completion": completions[row["side_key"]][0], "finish_reason": completions[row["side_key"]][1]}
            | {"sample": 0, "completion_tokens": 10} for row in shared if row["side_key"] != "absent"
        ]  # fmt: skip
        store.write_shard("annotations", "00000", annotated)
        entry = filter_shard(store, "00000", Filters(**settings), tokenizer, "f")
        return entry, {row["side_key"]: row for row in store.iterate("verdicts")}

    return run


def test_a_good_completion_is_kept_with_its_parts_and_scores(verdicts):
    entry, rows = verdicts({"good": (GOOD, "stop")})
    assert rows["good"]["kept"] and rows["good"]["reasons"] == []
    assert (rows["good"]["reasoning"], rows["good"]["summary"]) == ("a red circle lies on a table", "red circle")
    assert (rows["good"]["reasoning_tokens"], rows["good"]["uses"]) == (7, 2)
    assert (entry.metrics["kept"], entry.metrics["kept_tokens"], entry.metrics["dropped_tokens"]) == (1, 10, 0)


def test_all_reasons_are_kept_not_the_first(verdicts):
    looping = "<think>" + "loop on a " * 40
    entry, rows = verdicts({"bad": (looping, "length")}, max_reasoning_tokens=100)
    assert rows["bad"]["reasons"] == ["unclosed_think", "truncated", "too_long", "repetition"]
    assert (rows["bad"]["repeat_period"], rows["bad"]["repeat_tokens"]) == (3, 120)
    assert entry.metrics["reasons"] == {"repetition": 1, "too_long": 1, "truncated": 1, "unclosed_think": 1}


def test_a_failed_or_missing_annotation_is_not_annotated(verdicts):
    entry, rows = verdicts({"error": ("", "error"), "absent": ("", ""), "good": (GOOD, "stop")})
    assert rows["error"]["reasons"] == rows["absent"]["reasons"] == ["not_annotated"]
    assert entry.metrics["by_source"] == {
        "s/a": {"kept": 0, "dropped": 1}, "s/e": {"kept": 0, "dropped": 1}, "s/g": {"kept": 1, "dropped": 0},
    }  # fmt: skip
    assert sum(entry.metrics["reasoning_tokens"]["counts"]) == 1


def test_every_sample_of_a_side_is_judged_and_the_side_is_kept_if_one_is(tmp_path, tokenizer):
    store = Store(str(tmp_path))
    sides = [{"side_key": key, "source": "s", "modality": "image", "uses": 3} for key in ("two", "none", "one")]
    store.write_shard("sides", "00000", [row | {"text": "", "media": []} for row in sides])
    answers = [("one", 0, GOOD), ("two", 2, GOOD), ("two", 0, "no form"), ("two", 1, "")]
    rows = [{"side_key": key, "sample": n, "completion": text, "completion_tokens": 10} for key, n, text in answers]
    store.write_shard(
        "annotations", "00000", [r | {"finish_reason": "stop" if r["completion"] else "error"} for r in rows]
    )

    entry = filter_shard(store, "00000", Filters(), tokenizer)

    found = [(row["side_key"], row["sample"], row["reasons"]) for row in store.iterate("verdicts")]
    assert found == [
        ("two", 0, ["no_think"]), ("two", 1, ["not_annotated"]), ("two", 2, []),
        ("none", 0, ["not_annotated"]), ("one", 0, []),
    ]  # fmt: skip
    assert (entry.metrics["kept"], entry.metrics["kept_samples"], entry.rows) == (2, 2, 5)
    assert entry.metrics["by_source"] == {"s": {"kept": 2, "dropped": 1}}


def test_annotations_of_the_first_schema_version_are_judged_as_one_sample(tmp_path, tokenizer):
    store = Store(str(tmp_path))
    side = {"side_key": "a", "source": "s", "modality": "image", "uses": 2, "text": "", "media": []}
    store.write_shard("sides", "00000", [side])
    row = {"side_key": "a", "completion": GOOD, "finish_reason": "stop", "completion_tokens": 10}
    store.write_shard("annotations", "00000", [row])
    old = store.read_shard("annotations", "00000").drop_columns(["sample", "reason"])
    pq.write_table(old, store.at("annotations/00000.parquet"))

    filter_shard(store, "00000", Filters(), tokenizer)

    assert [(row["sample"], row["kept"]) for row in store.iterate("verdicts")] == [(0, True)]


def test_a_loop_that_the_server_ended_is_dropped_though_it_is_short(verdicts):
    """The server stops it before the filter's own threshold; what it cut has no form either."""
    thinking, answering = "<think>loop loop loop", "<think>a red circle</think><answer>loop loop loop"
    _, rows = verdicts({"thinking": (thinking, "repetition"), "answering": (answering, "repetition")})
    assert rows["thinking"]["reasons"] == ["unclosed_think", "repetition"]
    assert rows["answering"]["reasons"] == ["truncated", "repetition"]
    assert rows["thinking"]["repeat_tokens"] < Filters().repeat_min_tokens


def test_a_finished_shard_is_left_as_it_is(verdicts, tmp_path, tokenizer):
    entry, _ = verdicts({"good": (GOOD, "stop")})
    assert filter_shard(Store(str(tmp_path)), "00000", Filters(max_reasoning_tokens=1), tokenizer, "f") == entry
    assert filter_shard(Store(str(tmp_path)), "00000", Filters(max_reasoning_tokens=1), tokenizer, "g") != entry


def test_a_tokenizer_is_known_by_its_file(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    before = tokenizer_identity(str(tmp_path))
    assert before == tokenizer_identity(str(tmp_path / "tokenizer.json")) != str(tmp_path)
    (tmp_path / "tokenizer.json").write_text("other")
    assert tokenizer_identity(str(tmp_path)) != before
    assert tokenizer_identity("zai-org/GLM-4.1V-9B-Thinking") == "zai-org/GLM-4.1V-9B-Thinking"


@pytest.mark.parametrize(
    ("completion", "finish", "reasons"),
    [
        (GOOD, "stop", []),
        (GOOD, "length", []),
        (GOOD.removesuffix("</answer>"), "length", ["truncated"]),
        ("a red circle", "stop", ["no_think"]),
        (GOOD, "repetition", ["repetition"]),
        (GOOD.removesuffix("</answer>"), "repetition", ["truncated", "repetition"]),
        ("", "stop", ["empty_completion"]),
    ],
)
def test_the_form_and_the_way_it_ended(completion, finish, reasons):
    assert form_reasons(parse_annotation(completion, was_cut(finish)), finish) == reasons


@pytest.mark.parametrize(
    ("completion", "tokens"),
    [
        (GOOD, 7),
        ("<think> a red", 2),
        ("<think>a red</think>", 2),
        ("<think>  a red  </think><answer>a</answer>", 2),
        ("a red circle", 3),
        ("<think></think>", 0),
        ("<think> \n</think> a red", 0),
        ("", 0),
    ],
)
def test_reasoning_is_counted_between_its_tags_in_one_encoding(tokenizer, completion, tokens):
    assert encode([completion], tokenizer).reasoning.tolist() == [tokens]


def test_ids_of_many_texts_lie_one_after_the_other(tokenizer):
    encoded = encode(["a red", "", "circle"] * 50, tokenizer)
    assert encoded.offsets.tolist()[:4] == [0, 2, 2, 3] and encoded.ids.tolist()[:3] == [1, 2, 3]
    assert len(encoded.offsets) == 151 and encoded.offsets[-1] == len(encoded.ids) == 150


def test_reasoning_is_too_long_above_the_limit():
    assert too_long(np.array([8_192, 8_193]), 8_192).tolist() == [False, True]


def test_a_tokenizer_is_read_from_a_file_or_a_folder(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        assert load_tokenizer(str(place)).encode("red circle").ids == [2, 3]


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"filters\.tokenizer: .* has no tokenizer\.json"):
        load_tokenizer(str(tmp_path))
