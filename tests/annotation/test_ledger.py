"""What is told of a run while it is at work: to Prometheus, to `umer1 status`, and of requests that nobody answers."""

import socket
import threading
import time
import urllib.request

from tests.annotation.sides import settings, text_sides
from tests.annotation.stand_in import replicas, stand_in
from tests.annotation.stand_in_server import Replica
from umer1_core.annotation.engine import annotate_shard, open_engine
from umer1_core.status import read_status

TEXTS = [f"side {i}" for i in range(60)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_prometheus_reads_tokens_by_source_and_outcome_and_the_state_of_every_server(tmp_path):
    store, port = text_sides(tmp_path, [*TEXTS, "side fault:malformed*1"]), free_port()
    with stand_in() as address:
        annotation, endpoints = settings(address, metrics_port=port), [f"{address}/v1"]
        with open_engine(annotation, endpoints, tmp_path / "journal" / "live.json"):
            annotate_shard(store, "00000", annotation, endpoints, tmp_path / "journal", "f")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
                page = response.read().decode()
    labels = '{outcome="ok",source="own/x"}'
    assert f"umer1_annotation_requests_total{labels} {len(TEXTS) + 1}.0" in page
    assert f"umer1_annotation_completion_tokens_total{labels} {20.0 * (len(TEXTS) + 1)}" in page
    assert 'umer1_annotation_requests_total{outcome="malformed",source="own/x"} 1.0' in page
    assert f'umer1_annotation_replica_serving{{replica="{address}/v1"}} 1.0' in page


def test_a_port_that_is_taken_costs_the_metrics_and_not_the_run(tmp_path):
    store, said = text_sides(tmp_path, TEXTS[:3]), []
    with stand_in() as address, socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        annotation = settings(address, metrics_port=taken.getsockname()[1])
        with open_engine(annotation, [f"{address}/v1"], tmp_path / "live.json", say=said.append):
            entry = annotate_shard(store, "00000", annotation, [f"{address}/v1"], tmp_path / "journal", "f")
    assert entry.rows == 3 and any("metrics" in line for line in said)


def test_status_of_a_run_at_work_names_its_rate_and_of_a_dead_one_when_it_was_last_seen(tmp_path):
    store = text_sides(tmp_path, [f"side {i}" for i in range(400)])
    with stand_in(latency=0.2) as address:
        annotation, endpoints = settings(address, concurrency=16), [f"{address}/v1"]
        worker = threading.Thread(
            target=annotate_shard, args=(store, "00000", annotation, endpoints, tmp_path / "journal", "f")
        )
        worker.start()
        live = None
        while live is None or not live.rows_per_s:
            assert worker.is_alive(), "the shard ended before it was seen at work"
            time.sleep(0.1)
            live = read_status(store).live
        assert live.age_s < 5 and live.eta_s > 0 and live.replicas[0]["state"] == "serving"
        worker.join()
    assert read_status(store).live is None


def test_requests_that_nobody_answers_are_named_with_their_side_and_server(tmp_path, monkeypatch):
    monkeypatch.setattr("umer1_core.annotation.ledger._STALL_SECONDS", 0.5)
    store, said = text_sides(tmp_path, [*TEXTS, "side fault:hang*1"]), []
    with replicas(Replica()) as server:
        annotation = settings("http://unused", endpoints=server.endpoints, request_timeout_s=6.0)
        with open_engine(annotation, server.endpoints, tmp_path / "live.json", say=said.append):
            annotate_shard(store, "00000", annotation, server.endpoints, tmp_path / "journal", "f")
    stalled = [line for line in said if line.startswith("Nothing has been answered")]
    hanging = next(row for row in store.read_shard("sides", "00000").to_pylist() if "hang" in row["text"])
    assert len(stalled) == 1 and hanging["side_key"] in stalled[0] and server.endpoints[0] in stalled[0]
