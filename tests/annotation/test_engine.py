"""Every side ends as one annotation or one recorded error, through failures and kill -9."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.annotation.sides import settings, text_sides
from tests.annotation.stand_in import read_stats, stand_in
from umer1_core.annotation.engine import annotate_shard
from umer1_core.annotation.journal import count_records
from umer1_core.errors import Fatal
from umer1_core.store import ShardEntry, Store

TEXTS = [f"side number {i}" for i in range(120)]


def annotate(store: Store, address: str, **changes: object):
    return annotate_shard(
        store, "00000", settings(address, **changes), [f"{address}/v1"], Path(store.path) / "journal", "f"
    )


def only_dead_letter(store: Store, entry: ShardEntry) -> dict:
    rows = store.read_shard("annotations", "00000").to_pylist()
    failed = [row for row in rows if row["finish_reason"] == "error"]
    assert entry.metrics["errors"] == len(failed) == 1
    return failed[0]


def test_every_side_gets_its_own_completion_once(tmp_path):
    store = text_sides(tmp_path, TEXTS)
    with stand_in() as address:
        entry = annotate(store, address)
        stats = read_stats(address)
    rows = store.read_shard("annotations", "00000").to_pylist()
    sides = {row["side_key"]: row["text"] for row in store.read_shard("sides", "00000").to_pylist()}
    assert entry.rows == len(TEXTS) == stats["requests"] and stats["most_often"] == 1
    assert all(sides[row["side_key"]] in row["completion"] for row in rows)
    assert count_records(tmp_path / "journal" / "00000.jsonl") == 0


def test_a_finished_shard_sends_no_request(tmp_path):
    store = text_sides(tmp_path, TEXTS)
    with stand_in() as address:
        first = annotate(store, address)
        second = annotate(store, address)
        assert read_stats(address)["requests"] == len(TEXTS)
    assert first == second


def test_a_busy_server_is_asked_again(tmp_path):
    store = text_sides(tmp_path, TEXTS[:40])
    with stand_in(busy_every=5) as address:
        entry = annotate(store, address)
    assert entry.metrics["errors"] == 0 and entry.metrics["requests"] > 40


def test_a_refused_side_is_recorded_with_its_reason_and_the_rest_goes_on(tmp_path):
    store = text_sides(tmp_path, [*TEXTS[:20], "poison"])
    with stand_in(refuse_word="poison") as address:
        entry = annotate(store, address)
    letter = only_dead_letter(store, entry)
    assert letter["reason"] == "request_refused" and "cannot read this input" in letter["error"]


def test_a_side_in_flight_at_every_death_of_the_server_is_given_up(tmp_path):
    store = text_sides(tmp_path, [*TEXTS[:20], "deadly"])
    with stand_in(drop_word="deadly") as address:
        entry = annotate(store, address)
    letter = only_dead_letter(store, entry)
    assert letter["reason"] == "server_lost" and letter["attempts"] == 3


def test_an_unreachable_endpoint_names_itself_and_the_remedy_but_not_its_key(tmp_path, monkeypatch):
    store = text_sides(tmp_path, TEXTS[:3])
    monkeypatch.setenv("THE_KEY", "hunter2")
    with pytest.raises(Fatal) as raised:
        annotate(store, "http://127.0.0.1:9", api_key_env="THE_KEY")
    assert "127.0.0.1:9" in str(raised.value) and "annotation.endpoints" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_a_missing_key_is_named_by_its_variable(tmp_path):
    store = text_sides(tmp_path, TEXTS[:3])
    with pytest.raises(Fatal, match="NO_SUCH_KEY"):
        annotate(store, "http://127.0.0.1:9", api_key_env="NO_SUCH_KEY")


def test_a_wrong_model_is_refused_before_any_side_is_sent(tmp_path):
    store = text_sides(tmp_path, TEXTS[:3])
    with stand_in() as address:
        with pytest.raises(Fatal, match="serves stand-in, not `other`"):
            annotate(store, address, model="other")
        assert read_stats(address).get("requests", 0) == 0


_RUN = """
import sys
from pathlib import Path
from tests.annotation.sides import settings
from umer1_core.annotation.engine import annotate_shard
from umer1_core.store import ShardEntry, Store
root, address = sys.argv[1:]
annotate_shard(Store(root), "00000", settings(address, concurrency=8), [address + "/v1"], Path(root) / "journal", "f")
"""


def test_kill_9_loses_nothing_and_repeats_only_what_was_in_flight(tmp_path):
    store = text_sides(tmp_path, TEXTS)
    journal = tmp_path / "journal" / "00000.jsonl"
    with stand_in(latency=0.1) as address:
        run = subprocess.Popen([sys.executable, "-c", _RUN, str(tmp_path), address])
        deadline = time.monotonic() + 30
        while count_records(journal) < 40 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        durable = count_records(journal)
        assert 40 <= durable < len(TEXTS)
        entry = annotate(store, address, concurrency=8)
        stats = read_stats(address)
    keys = store.read_shard("annotations", "00000")["side_key"].to_pylist()
    assert sorted(keys) == sorted(store.read_shard("sides", "00000")["side_key"].to_pylist())
    assert entry.metrics["requests"] == len(TEXTS) - durable
    # Not durable at the kill: eight in flight, and what was answered since the last group commit.
    assert stats["requests"] - len(TEXTS) <= 8 + 8 * 4
    assert stats["most_often"] <= 2
