"""What a journal holds survives a crash at any byte."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from umer1_core.annotation.journal import Journal, open_journal


def record(i: int) -> dict:
    return {"side_key": f"k{i}", "completion": "ä\n" * i}


@settings(deadline=None, max_examples=40)
@given(cut=st.integers(0, 400))
def test_a_torn_tail_is_cut_off_and_whole_records_stay(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "s.jsonl"
    journal = Journal(path)
    for i in range(8):
        journal.append(record(i))
    journal.close()
    data = path.read_bytes()
    path.write_bytes(data[: min(cut, len(data))])
    whole = data[: min(cut, len(data))].count(b"\n")
    again = Journal(path)
    assert list(again.records) == [f"k{i}" for i in range(whole)]
    again.append(record(99))
    again.close()
    assert list(Journal(path).records) == [f"k{i}" for i in range(whole)] + ["k99"]


def test_records_are_durable_within_a_group_commit(tmp_path):
    path = tmp_path / "s.jsonl"

    async def run() -> int:
        async with open_journal(path) as journal:
            journal.append(record(1))
            await asyncio.sleep(0.6)
            return path.read_bytes().count(b"\n")

    assert asyncio.run(run()) == 1
