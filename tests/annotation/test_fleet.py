"""Work goes where there is room, stays where its media are, and follows the servers as they come and go."""

import asyncio
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import orjson
import pytest

from tests.annotation.sides import settings, text_sides
from tests.annotation.stand_in import replicas, stand_in
from tests.annotation.stand_in_server import Replica as StandInReplica
from umer1_core.annotation.endpoints import read_endpoints
from umer1_core.annotation.engine import annotate_shard, open_engine
from umer1_core.annotation.fleet import Fleet
from umer1_core.annotation.replica import Replica
from umer1_core.annotation.roster import Roster
from umer1_core.errors import Fatal, RecipeError
from umer1_core.store import Store

TEXTS = [f"side {i}" for i in range(240)]


def annotate(store: Store, endpoints: list[str], **changes: object):
    annotation = settings("http://unused", **({"endpoints": endpoints} | changes))
    return annotate_shard(store, "00000", annotation, endpoints, Path(store.path) / "journal", "f")


def by_replica(record) -> Counter[int]:
    return Counter(replica for _, replica, text in record if text.startswith("side"))


def with_pictures(folder: Path) -> Store:
    """The sides of TEXTS with a picture each, eight in a row with the same one."""
    store = text_sides(folder, TEXTS)
    rows = store.read_shard("sides", "00000").to_pylist()
    for i, row in enumerate(rows):
        picture = folder / f"{i // 8}.png"
        picture.write_bytes(b"\x89PNG\r\n\x1a\n")
        media = {"kind": "image", "uri": str(picture), "member": "", "frames": [], "content_hash": f"picture {i // 8}"}
        row["media"] = [media | {"size": 8, "width": 8, "height": 8}]
    store.write_shard("sides", "00000", rows)
    return store


def share_at_home(record) -> float:
    """Of the sides, those that went where most with the same picture went."""
    places = defaultdict(Counter)
    for _, replica, text in record:
        places[int(text.removeprefix("side ")) // 8][replica] += 1
    return sum(max(counts.values()) for counts in places.values()) / len(TEXTS)


def test_equal_media_go_to_one_server_and_the_load_stays_even(tmp_path):
    store = with_pictures(tmp_path)
    with replicas(*[StandInReplica(latency=0.02)] * 3) as server:
        annotate(store, server.endpoints, concurrency=8)
        assert share_at_home(server.record()) > 0.75 and min(by_replica(server.record()).values()) > 40
    (tmp_path / "annotations" / "00000.parquet").unlink()
    with replicas(*[StandInReplica(latency=0.02)] * 3) as server:
        annotate(store, server.endpoints, concurrency=8, affinity=False)
        # Without affinity the same sides are spread: the figure above is no accident of the order.
        assert share_at_home(server.record()) < 0.7


def test_a_file_that_the_server_may_not_read_travels_as_its_bytes(tmp_path):
    store = with_pictures(tmp_path)
    with replicas(StandInReplica(no_files=True)) as server:
        entry = annotate(store, server.endpoints, media="reference")
        asked = Counter(text for _, _, text in server.record())
    assert entry.metrics["errors"] == 0 and set(asked.values()) == {2}


def test_a_server_is_never_given_more_than_the_recipe_allows(tmp_path):
    store = text_sides(tmp_path, TEXTS)
    with (
        stand_in(latency=0.05) as address,
        open_engine(settings(address, concurrency=5), [f"{address}/v1"], tmp_path / "live") as engine,
    ):
        most = 0
        worker = threading.Thread(target=annotate, args=(store, [f"{address}/v1"]), kwargs={"concurrency": 5})
        worker.start()
        while worker.is_alive():
            most = max(most, *(replica.busy_with for replica in engine.fleet.roster.replicas.values()))
            time.sleep(0.005)
    assert most == 5


def test_servers_named_in_the_file_join_and_leave_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr("umer1_core.annotation.roster._LIST_SECONDS", 0.2)
    store = text_sides(tmp_path, TEXTS)
    listed = tmp_path / "endpoints"
    with replicas(*[StandInReplica(latency=0.1)] * 2) as server:
        first, second = server.endpoints
        listed.write_text(f"# the first\n{first}\n")
        worker = threading.Thread(
            target=annotate, args=(store, []), kwargs={"concurrency": 4, "endpoints_file": str(listed)}
        )
        worker.start()
        while len(server.record()) < 30:
            time.sleep(0.02)
        assert set(by_replica(server.record())) == {0}
        listed.write_text(f"{second}\n")
        worker.join()
        record = server.record()
    assert sum(by_replica(record).values()) == len(TEXTS) and by_replica(record)[1] > 60
    last_of_first = max(index for index, (_, replica, _) in enumerate(record) if replica == 0)
    assert last_of_first < len(TEXTS) - 60


def test_an_address_with_a_key_in_the_file_is_refused_without_showing_it(tmp_path):
    listed = tmp_path / "endpoints"
    listed.write_text("http://user:hunter2@host:8000/v1\n")
    with pytest.raises(RecipeError, match="Address 1") as raised:
        read_endpoints(settings("http://a", endpoints_file=str(listed)), [])
    assert "hunter2" not in str(raised.value)


def test_a_wrong_server_among_right_ones_stops_the_run_before_any_side_is_sent(tmp_path):
    store = text_sides(tmp_path, TEXTS)
    with replicas(StandInReplica(), StandInReplica(max_model_len=512)) as server:
        with pytest.raises(Fatal, match="holds 512 tokens"):
            annotate(store, server.endpoints)
        assert server.record() == []


def test_shards_in_progress_share_one_engine_and_its_limit(tmp_path):
    store = text_sides(tmp_path, TEXTS)
    text_sides(tmp_path, [f"other {i}" for i in range(60)], "00001")
    with stand_in(latency=0.02) as address:
        annotation, endpoints = settings(address, concurrency=4), [f"{address}/v1"]
        with open_engine(annotation, endpoints, tmp_path / "live") as engine:
            threads = [
                threading.Thread(
                    target=annotate_shard, args=(store, s, annotation, endpoints, tmp_path / "journal", "f")
                )
                for s in ("00000", "00001")
            ]
            for thread in threads:
                thread.start()
            most = 0
            while any(thread.is_alive() for thread in threads):
                most = max(most, *(replica.busy_with for replica in engine.fleet.roster.replicas.values()))
                time.sleep(0.005)
    assert most == 4 and sum(entry.rows for entry in store.entries("annotations")) == len(TEXTS) + 60


def test_the_live_file_tells_rates_servers_and_outcomes(tmp_path):
    store = text_sides(tmp_path, [*TEXTS, "side fault:malformed*1"])
    with stand_in(latency=0.01) as address:
        annotate(store, [f"{address}/v1"])
    live = orjson.loads((tmp_path / "journal" / "live.json").read_bytes())
    assert live["outcomes"] == {"malformed": 1, "ok": len(TEXTS) + 1} and live["in_flight"] == 0
    assert live["replicas"][0]["replica"] == f"{address}/v1" and live["replicas"][0]["answered"] == len(TEXTS) + 2


class Waiting:
    """Work that is never answered."""

    lane, affinity, name, wanted = "other", "", "a side", True

    def __init__(self, avoid: set[str]) -> None:
        self.avoid = avoid

    async def body(self, replica) -> bytes:
        await asyncio.Event().wait()
        return b""


@pytest.mark.parametrize(
    ("avoid", "takes"), [({"http://fast/v1"}, "slow"), (set(), "fast"), ({"http://slow/v1"}, "fast")]
)
def test_work_that_only_a_slow_server_may_take_does_not_wait_for_ever(avoid, takes):
    async def busy() -> dict[str, int]:
        annotation = settings("http://unused")
        roster = Roster(annotation, None, None, b"", print)
        fleet = Fleet(None, roster)
        for name, gap in (("fast", 0.001), ("slow", 1.0)):
            replica = Replica(f"http://{name}/v1", 8, 8)
            replica.serve(False)
            replica.gap = gap
            roster.replicas[replica.base_url] = replica
        fleet.submit(Waiting(avoid))
        roster.on_room()
        await asyncio.sleep(0)
        taken = {name: roster.replicas[f"http://{name}/v1"].busy_with for name in ("fast", "slow")}
        await roster.close()
        return taken

    assert asyncio.run(busy()) == {"fast": 0, "slow": 0} | {takes: 1}
