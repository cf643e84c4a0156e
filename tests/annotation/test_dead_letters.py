"""Dead letters are counted by reason, shown with what a person needs, and told from answers."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from umer1_core.annotation.dead_letters import UNNAMED, dead_letters, print_dead_letters
from umer1_core.errors import StorageError
from umer1_core.pairs import Media, Side, side_record
from umer1_core.store import Store

PICTURE = Media("image", "https://user:secret@host/set.tar", "12.jpg", content_hash="ab")


def data_set(folder: Path, reasons: list[str], shard: str = "00000") -> Store:
    """A shard of sides; an empty word is an answer, everything else the reason of a dead letter."""
    store = Store(str(folder))
    sides = [Side(f"{shard} question {number}", (PICTURE,)) for number in range(len(reasons))]
    rows = [
        {"side_key": side.key, "source": "own/x", "modality": "image", "uses": 1} | side_record(side) for side in sides
    ]
    store.write_shard("sides", shard, rows)
    failed = {"finish_reason": "error", "error": "the annotator said [no]"}
    answers = [
        {"side_key": side.key, "sample": 0, "source": "own/x", "finish_reason": "stop", "reason": reason, "error": ""}
        | (failed if reason else {})
        for side, reason in zip(sides, reasons, strict=True)
    ]
    store.write_shard("annotations", shard, answers, errors=sum(map(bool, reasons)))
    return store


def shown(store: Store) -> str:
    sink = io.StringIO()
    print_dead_letters(dead_letters(store), store.root, Console(file=sink, width=200))
    return sink.getvalue()


def test_dead_letters_are_counted_by_reason_the_most_frequent_first(tmp_path):
    data_set(tmp_path, ["timeout", "", "bad_input"])
    store = data_set(tmp_path, ["timeout", "", "timeout"], "00001")
    assert [(each.reason, each.count) for each in dead_letters(store)] == [("timeout", 3), ("bad_input", 1)]


def test_examples_are_few_and_say_which_side_where_its_media_lie_and_what_went_wrong(tmp_path):
    (letters,) = dead_letters(data_set(tmp_path, ["timeout"] * 5), examples=2)
    assert letters.count == 5 and len(letters.examples) == 2
    first = letters.examples[0]
    assert first.side_key == Side("00000 question 0", (PICTURE,)).key and first.text == "00000 question 0"
    assert first.media == (PICTURE.where,) and first.error == "the annotator said [no]"


def test_one_reason_can_be_looked_at_alone_and_an_unknown_one_is_answered_with_those_there_are(tmp_path):
    store = data_set(tmp_path, ["timeout", "bad_input", "bad_input"])
    assert [each.reason for each in dead_letters(store, "timeout")] == ["timeout"]
    with pytest.raises(StorageError, match=r"reason timout.*bad_input \(2\), timeout \(1\)"):
        dead_letters(store, "timout")


def test_a_data_set_without_dead_letters_says_so(tmp_path):
    store = data_set(tmp_path, ["", ""])
    assert dead_letters(store) == dead_letters(store, "timeout") == []
    assert "there are no dead letters" in shown(store)


def test_dead_letters_without_a_reason_have_a_name_to_redrive_them_by(tmp_path):
    store = data_set(tmp_path, ["timeout"])
    rows = store.read_shard("annotations", "00000").to_pylist()
    store.write_shard("annotations", "00000", [rows[0] | {"reason": None}])
    assert [each.reason for each in dead_letters(store, UNNAMED)] == [UNNAMED]


def test_what_is_shown_names_the_side_and_hides_credentials(tmp_path):
    text = shown(data_set(tmp_path, ["timeout"]))
    assert Side("00000 question 0", (PICTURE,)).key in text and "the annotator said [no]" in text
    assert "host/set.tar!12.jpg" in text and "secret" not in text
