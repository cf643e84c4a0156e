"""What a journal holds survives a crash at any byte, and comes back as the tables it stands for."""

import os
import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.tables import ANNOTATIONS, ATTEMPTS
from umer1_core.annotation.journal import Journal, count_records, open_journal

EMPTY = {"string": "", "int32": 0, "int64": 0, "float": 0.0}


def filled(schema, **values):
    return {field.name: EMPTY[str(field.type)] for field in schema} | values


def attempt(i: int, outcome: str = "ok", sample: int = 0) -> dict:
    return filled(ATTEMPTS, side_key=f"k{i}", outcome=outcome, sample=sample)


def row(i: int, annotator: str = "a", sample: int = 0) -> dict:
    return filled(ANNOTATIONS, side_key=f"k{i}", completion='ä\n"row":{' * i, annotator=annotator, sample=sample)


def reopened(path) -> Journal:
    with open_journal(path, "a", print) as journal:
        return journal


@settings(deadline=None, max_examples=40)
@given(cut=st.integers(0, 3_000))
def test_a_torn_tail_is_cut_off_and_whole_records_stay(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "s.jsonl"
    with open_journal(path, "a", print) as journal:
        for i in range(8):
            journal.append(attempt(i), row(i))
    data = path.read_bytes()
    path.write_bytes(data[: min(cut, len(data))])
    whole = data[: min(cut, len(data))].count(b"\n")
    with open_journal(path, "a", print) as again:
        assert again.settled == {(f"k{i}", 0) for i in range(whole)}
        again.append(attempt(99), row(99))
    assert reopened(path).settled == {(f"k{i}", 0) for i in range(whole)} | {("k99", 0)}


def test_a_side_that_is_not_settled_goes_on_at_its_rung(tmp_path):
    path = tmp_path / "s.jsonl"
    with open_journal(path, "a", print) as journal:
        for outcome in ("transient", "malformed", "transient", "cut"):
            journal.append(attempt(1, outcome), None)
        journal.append(attempt(2, "malformed"), None)
        journal.append(attempt(2), row(2))
    again = reopened(path)
    assert again.asked == {("k1", 0): (4, 2)} and again.settled == {("k2", 0)}


def test_the_tables_hold_every_attempt_and_every_row_in_the_order_of_the_answers(tmp_path):
    with open_journal(tmp_path / "s.jsonl", "a", print) as journal:
        for i in (3, 1, 2):
            journal.append(attempt(i, "loop"), None)
            journal.append(attempt(i), row(i))
        journal.commit()
        attempts, rows = journal.tables()
    assert attempts["outcome"].to_pylist() == ["loop", "ok"] * 3
    assert rows["side_key"].to_pylist() == ["k3", "k1", "k2"]
    assert rows["completion"].to_pylist() == [row(i)["completion"] for i in (3, 1, 2)]


def test_answers_of_another_annotator_count_for_nothing(tmp_path):
    path = tmp_path / "s.jsonl"
    with open_journal(path, "a", print) as journal:
        journal.append(attempt(1), row(1, annotator="another"))
    assert reopened(path).settled == set() and path.stat().st_size == 0


def test_settled_sides_are_counted_once_whatever_their_samples_and_texts(tmp_path):
    path = tmp_path / "s.jsonl"
    with open_journal(path, "a", print) as journal:
        for i in (1, 2):
            journal.append(attempt(i, "malformed"), None)
            for sample in (0, 1):
                journal.append(attempt(i, sample=sample), row(i, sample=sample))
    assert count_records(path) == 2 and count_records(tmp_path / "none.jsonl") == 0


def test_a_commit_waits_for_one_that_another_thread_has_begun(tmp_path, monkeypatch):
    begun, go_on, synced = threading.Event(), threading.Event(), os.fsync

    def slow_fsync(handle: int) -> None:
        begun.set()
        go_on.wait(5)
        synced(handle)

    with open_journal(tmp_path / "s.jsonl", "a", print) as journal:
        journal.append(attempt(1), row(1))
        monkeypatch.setattr(os, "fsync", slow_fsync)
        first = threading.Thread(target=journal.commit)
        first.start()
        begun.wait(5)
        second = threading.Thread(target=journal.commit)
        second.start()
        second.join(0.2)
        assert second.is_alive()  # nothing is left for it to write, but what was taken is not durable yet
        go_on.set()
        first.join()
        second.join()
        assert journal.tables()[1].num_rows == 1
