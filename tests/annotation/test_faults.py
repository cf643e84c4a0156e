"""Every kind of bad answer ends in its class, the run completes and the counts add up; real servers, real deaths."""

import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from schemas.recipe import Annotation
from tests.annotation.kills import durable_sides
from tests.annotation.sides import text_sides
from tests.annotation.stand_in import StandIn, replicas
from tests.annotation.stand_in_server import Replica
from umer1_core.annotation.engine import annotate_shard
from umer1_core.errors import Fatal
from umer1_core.pairs import Side
from umer1_core.store import ShardEntry, Store

HEALTHY = [f"healthy side {i}" for i in range(200)]
HEALING = [
    f"side {i} fault:{name}*1"
    for i in range(2)
    for name in (
        *("reset", "drop", "hang", "drip", "invalid_json", "no_choices", "html"),
        *("http429", "http_after429", "http500", "http502", "http503"),
    )
]
LASTING = {f"side fault:{name}": "bad_output" for name in ("invalid_json", "no_choices", "html")}
LASTING |= {f"side fault:{name}": "deadline" for name in ("hang", "drip", "http503")} | {
    "side fault:reset": "server_lost"
}
REFUSED = ["side fault:http400", "side fault:http413"]
REPAIRED = [f"side fault:{name}*1" for name in ("malformed", "cut", "repetition")]


def annotate(store: Store, endpoints: list[str], patience_s: float = 5.0, **changes: object) -> ShardEntry:
    settings = {"model": "stand-in", "endpoints": endpoints, "concurrency": 16} | changes
    annotation = Annotation.model_validate(settings)
    return annotate_shard(store, "00000", annotation, endpoints, Path(store.path) / "journal", "f", None, patience_s)


class Outcome:
    """The rows of a finished shard by text, and what the servers were asked for each."""

    def __init__(self, store: Store, record: list[tuple[float, int, str]]) -> None:
        texts = {row["side_key"]: row["text"] for row in store.read_shard("sides", "00000").to_pylist()}
        rows = store.read_shard("annotations", "00000").to_pylist()
        self.rows = {texts[row["side_key"]]: row for row in rows}
        assert len(rows) == len(self.rows) == len(texts)
        self.attempts: dict[str, list[dict[str, Any]]] = {text: [] for text in texts.values()}
        for row in store.read_shard("attempts", "00000").to_pylist():
            self.attempts[texts[row["side_key"]]].append(row)
        # A server that was left alone is first asked whether it is well; that is no side's text.
        self.asked = Counter(text for _, _, text in record if text in self.rows)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> tuple[Outcome, ShardEntry]:
    """One run over all kinds of bad answers at once, on two replicas, with short patience."""
    store = text_sides(
        tmp_path_factory.mktemp("mixed"),
        [*HEALTHY, *HEALING, *LASTING, *REFUSED, *REPAIRED, "side fault:http500", "side fault:no_usage"],
    )
    with replicas(Replica(latency=0.02), Replica(latency=0.02)) as server:
        entry = annotate(store, server.endpoints, request_timeout_s=1.0, deadline_s=3.0, ladder={"attempts": 3})
        return Outcome(store, server.record()), entry


@pytest.mark.parametrize("text", HEALING)
def test_a_failure_that_heals_costs_another_request_and_nothing_else(mixed, text):
    outcome, _ = mixed
    assert f"<answer>{text}</answer>" in outcome.rows[text]["completion"]
    assert outcome.rows[text]["error"] == outcome.rows[text]["reason"] == "" and outcome.asked[text] >= 2


@pytest.mark.parametrize("text", LASTING)
def test_a_failure_that_lasts_becomes_a_dead_letter_with_its_last_error(mixed, text):
    outcome, _ = mixed
    row = outcome.rows[text]
    assert row["finish_reason"] == "error" and row["completion"] == ""
    # A server that is left alone for a while may bring a side's deadline before the verdict on it.
    assert row["reason"] in (LASTING[text], "deadline") and row["error"] and outcome.asked[text] >= 2


@pytest.mark.parametrize("text", REFUSED)
def test_a_request_that_is_refused_is_not_asked_again(mixed, text):
    outcome, _ = mixed
    assert outcome.rows[text]["reason"] == "request_refused" and outcome.rows[text]["finish_reason"] == "error"
    assert text.removeprefix("side fault:http") in outcome.rows[text]["error"] and outcome.asked[text] == 1
    assert [row["outcome"] for row in outcome.attempts[text]] == ["bad_input"]


@pytest.mark.parametrize("text", REPAIRED)
def test_a_completion_that_cannot_be_used_is_asked_for_again_with_another_seed(mixed, text):
    outcome, _ = mixed
    bad = {"malformed": "malformed", "cut": "cut", "repetition": "loop"}[text.removeprefix("side fault:")[:-2]]
    first, second = outcome.attempts[text]
    assert (first["outcome"], second["outcome"]) == (bad, "ok") and first["seed"] != second["seed"]
    assert first["completion"] and outcome.rows[text]["completion"].endswith(f"<answer>{text}</answer>")


def test_missing_usage_is_accepted_and_counts_no_tokens(mixed):
    row = mixed[0].rows["side fault:no_usage"]
    assert row["finish_reason"] == "stop" and row["prompt_tokens"] == row["completion_tokens"] == 0


def test_counts_add_up_over_all_kinds_of_bad_answers(mixed):
    outcome, entry = mixed
    dead = {text for text, row in outcome.rows.items() if row["finish_reason"] == "error"}
    assert dead == {*LASTING, *REFUSED, "side fault:http500"}
    assert entry.metrics["errors"] == len(dead) and entry.rows == len(outcome.rows)
    assert {text: len(rows) for text, rows in outcome.attempts.items()} == dict(outcome.asked)
    assert entry.metrics["requests"] == outcome.asked.total()
    for rows in outcome.attempts.values():
        assert [row["attempt"] for row in rows] == sorted(row["attempt"] for row in rows)


@pytest.mark.parametrize("count", [1, 3])
def test_a_side_that_fails_every_server_is_given_up_long_before_its_deadline(tmp_path, count):
    store = text_sides(tmp_path, [*HEALTHY[:40], "side fault:http500"])
    with replicas(*[Replica(latency=0.02)] * count) as server:
        annotate(store, server.endpoints, deadline_s=3_600)
        record = server.record()
    where = [replica for _, replica, text in record if text == "side fault:http500"]
    row = Outcome(store, record).rows["side fault:http500"]
    assert row["reason"] == "server_error" and "500" in row["error"]
    assert len(where) == 3 if count == 1 else len(set(where)) == 2


def test_sides_that_all_fail_are_given_up_one_by_one_while_their_server_is_well(tmp_path):
    """The tail of a run may be poisoned sides alone: a run that stopped there would stop there again each time."""
    store = text_sides(tmp_path, [f"side {i} fault:{kind}" for i in range(10) for kind in ("http500", "reset", "html")])
    with replicas(Replica(latency=0.02)) as server:
        entry = annotate(store, server.endpoints, deadline_s=3.0)
    assert entry.rows == entry.metrics["errors"] == 30


def test_a_response_for_another_model_stops_the_run(tmp_path):
    with replicas(Replica(fault="other_model")) as server, pytest.raises(Fatal, match="another/model"):
        annotate(text_sides(tmp_path, HEALTHY), server.endpoints)


def test_a_refused_key_stops_the_run_without_showing_it(tmp_path, monkeypatch):
    monkeypatch.setenv("THE_KEY", "hunter2")
    with replicas(Replica(key="another")) as server, pytest.raises(Fatal, match="refuses the key") as raised:
        annotate(text_sides(tmp_path, HEALTHY), server.endpoints, api_key_env="THE_KEY")
    assert "hunter2" not in str(raised.value)


def test_a_server_that_is_loading_is_waited_for(tmp_path):
    store = text_sides(tmp_path, HEALTHY)
    with replicas(Replica(loading_s=2.0)) as server:
        assert annotate(store, server.endpoints, patience_s=30).metrics["errors"] == 0


def test_a_server_that_refuses_connections_is_left_out(tmp_path):
    store = text_sides(tmp_path, HEALTHY)
    with replicas(Replica()) as server:
        gone = StandIn([Replica()])
        gone.kill()
        entry = annotate(store, [*gone.endpoints, *server.endpoints], patience_s=1.0)
    assert entry.rows == len(HEALTHY) and entry.metrics["errors"] == 0


def in_background(run: Callable[[], ShardEntry]) -> Future[ShardEntry]:
    future: Future[ShardEntry] = Future()

    def work() -> None:
        try:
            future.set_result(run())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def wait_until(condition: Callable[[], bool], run: Future[ShardEntry], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert not run.done(), f"the run ended before: {run.result()}"
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)


def test_the_rows_of_a_server_that_dies_are_elsewhere_within_five_seconds(tmp_path):
    store = text_sides(tmp_path, HEALTHY)
    with replicas(Replica(latency=0.05)) as lives, replicas(Replica(latency=600)) as dies:
        run = in_background(lambda: annotate(store, [*lives.endpoints, *dies.endpoints]))
        wait_until(lambda: len(dies.record()) > 0 and lives.stats().get("requests", 0) + len(dies.record()) >= 200, run)
        held = {text for _, _, text in dies.record()}
        dies.kill()
        died = time.monotonic()
        entry = run.result(60)
        record = lives.record()
        dies.start()  # only so that the block can end it
    taken_over = {text: when for when, _, text in record if text in held}
    assert held and taken_over.keys() == held and max(taken_over.values()) - died < 5
    assert entry.rows == len(HEALTHY) and entry.metrics["errors"] == 0
    assert all(row["completion"] for row in Outcome(store, record).rows.values())


def test_a_server_that_comes_back_at_its_address_is_used_again(tmp_path):
    store = text_sides(tmp_path, [f"side number {i}" for i in range(600)])
    with replicas(Replica(latency=0.1, slots=6)) as lives, replicas(Replica(latency=0.1, slots=6)) as returns:
        run = in_background(lambda: annotate(store, [*lives.endpoints, *returns.endpoints], concurrency=8))
        wait_until(lambda: len(returns.record()) > 8, run)
        returns.kill()
        time.sleep(0.5)
        returns.start()
        entry = run.result(90)
        assert returns.stats()["answered"] > 8
    assert entry.rows == 600 and entry.metrics["errors"] == 0


def test_a_key_is_nowhere_under_the_root_in_logs_or_errors(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("THE_KEY", "hunter2")
    caplog.set_level(logging.DEBUG)
    kinds = ("http400", "http500", "html", "invalid_json", "reset", "malformed")
    store = text_sides(tmp_path, [*HEALTHY[:40], *(f"side fault:{kind}" for kind in kinds)])
    with replicas(Replica(key="hunter2", latency=0.02)) as server:
        entry = annotate(store, server.endpoints, api_key_env="THE_KEY", deadline_s=3.0, concurrency=8)
        assert server.stats()["answered"] >= 40  # the key did arrive
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 3 and entry.metrics["errors"] >= 4
    assert not [path for path in written if b"hunter2" in path.read_bytes()]
    assert "hunter2" not in caplog.text and "hunter2" not in str(entry)


_RUN = """
import resource, sys
from pathlib import Path
from schemas.recipe import Annotation
from umer1_core.annotation.engine import annotate_shard
from umer1_core.errors import StorageError
from umer1_core.store import Store
root, endpoint, file_size = sys.argv[1:]
if int(file_size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(file_size), int(file_size)))
annotation = Annotation(model="stand-in", endpoints=[endpoint], concurrency=16)
try:
    annotate_shard(Store(root), "00000", annotation, [endpoint], Path(root) / "journal", "f")
except StorageError as error:
    sys.exit(f"StorageError: {error}")
"""


def start(store: Store, endpoint: str, file_size: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _RUN, store.path, endpoint, str(file_size)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_two_processes_on_one_shard_ask_each_side_once(tmp_path):
    store = text_sides(tmp_path, [f"side number {i}" for i in range(600)])
    with replicas(Replica(latency=0.05)) as server:
        runs = [start(store, server.endpoints[0]) for _ in range(2)]
        errors = [run.communicate(timeout=120)[1] for run in runs]
        stats = server.stats()
        outcome = Outcome(store, server.record())
    assert [run.returncode for run in runs] == [0, 0], errors
    assert stats["requests"] == stats["distinct"] == 600 == len(outcome.rows)


def test_a_full_disk_stops_the_run_with_a_sentence_and_what_was_durable_is_not_asked_again(tmp_path):
    store = text_sides(tmp_path, [f"side number {i}" for i in range(800)])
    with replicas(Replica(latency=0.05)) as server:
        stopped = start(store, server.endpoints[0], file_size=100_000)
        message = stopped.communicate(timeout=120)[1]
        assert stopped.returncode != 0 and message.startswith("StorageError: "), message
        assert "journal" in message and "same command" in message
        durable, before = durable_sides(store), len(server.record())
        assert 50 < len(durable) < 800
        run = start(store, server.endpoints[0])
        assert run.communicate(timeout=120)[1] == "" and run.returncode == 0
        record = server.record()
    assert len(Outcome(store, record).rows) == 800
    assert not durable & {Side(text).key for _, _, text in record[before:]}
