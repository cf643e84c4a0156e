"""SQL and readers see every table in today's schema, whatever schema version wrote its shards."""

from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from schemas.tables import ADDED, TABLES
from umer1_core.query import connect, rows, scan, scatter
from umer1_core.store import Store


@pytest.fixture(params=["local", "memory"])
def old_and_new(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Annotations whose first shard lacks the columns that were added, and whose second holds two samples."""
    store = Store(str(tmp_path / "v1"))
    row = {"side_key": "a", "source": "s", "completion": "text", "finish_reason": "stop"}
    store.write_shard("annotations", "00000", [row])
    old = store.read_shard("annotations", "00000").drop_columns(list(ADDED["annotations"]))
    pq.write_table(old, store.at("annotations/00000.parquet"))
    new = [row | {"side_key": "b", "sample": number, "reason": "none"} for number in (0, 1)]
    store.write_shard("annotations", "00001", new)
    if request.param == "local":
        return store
    place = f"/umer1-{tmp_path.name}"
    for name in store.fs.find(store.path):
        fsspec.filesystem("memory").pipe_file(place + name.removeprefix(store.path), store.fs.cat_file(name))
    return Store(f"memory:/{place}")


def test_columns_that_an_old_shard_lacks_have_the_value_they_stood_for(old_and_new: Store) -> None:
    expected = [("a", 0, ""), ("b", 0, "none"), ("b", 1, "none")]
    with connect() as connection:
        scan(connection, old_and_new, "annotations", ["side_key", "sample", "reason"])
        assert connection.execute("SELECT * FROM annotations ORDER BY ALL").fetchall() == expected
    assert [(r["side_key"], r["sample"], r["reason"]) for r in old_and_new.iterate("annotations")] == expected


def test_all_shards_of_a_table_have_its_schema_whichever_columns_are_read(old_and_new: Store) -> None:
    assert old_and_new.read("annotations").schema.equals(TABLES["annotations"])
    assert old_and_new.read("annotations", ["sample", "side_key"])["sample"].to_pylist() == [0, 0, 1]


def test_a_table_of_old_shards_only_is_joined_by_sample(old_and_new: Store) -> None:
    for name in ("entries/annotations/00001.json", "annotations/00001.parquet"):
        old_and_new.delete(name)
    old_and_new.write_shard("verdicts", "00000", [{"side_key": "a", "sample": 0, "kept": True}])
    with connect() as connection:
        for table in ("annotations", "verdicts"):
            scan(connection, old_and_new, table)
        joined = rows(connection, "SELECT kept, completion FROM annotations JOIN verdicts USING (side_key, sample)")
    assert joined == [{"kept": True, "completion": "text"}]


def test_a_table_without_shards_is_an_empty_view(tmp_path: Path) -> None:
    with connect() as connection:
        scan(connection, Store(str(tmp_path)), "attempts", ["outcome"])
        assert rows(connection, "SELECT outcome FROM attempts") == []


def test_columns_that_no_shard_has_are_null(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_shard("verdicts", "00000", [{"side_key": "a", "kept": True, "flags": ["x"]}])
    pq.write_table(store.read_shard("verdicts", "00000").drop_columns(["flags"]), store.at("verdicts/00000.parquet"))
    with connect() as connection:
        scan(connection, store, "verdicts", ["side_key", "flags"])
        assert rows(connection, "SELECT side_key, len(flags) AS n FROM verdicts") == [{"side_key": "a", "n": None}]


def test_two_stores_can_be_read_side_by_side(tmp_path: Path) -> None:
    for name in ("one", "two"):
        Store(str(tmp_path / name)).write_shard("rejections", "00000", [{"source": name}])
    with connect() as connection:
        for name in ("one", "two"):
            scan(connection, Store(str(tmp_path / name)), "rejections", ["source"], name)
        assert rows(connection, "SELECT * FROM one UNION ALL FROM two ORDER BY 1") == [
            {"source": "one"},
            {"source": "two"},
        ]


def test_a_wide_result_is_read_back_part_by_part_in_order(tmp_path: Path) -> None:
    columns = "(i * 7) % 3 AS part, i AS position, [{'text': 't' || i}] AS wide"
    sql = f"SELECT {columns} FROM range(30000) t(i) ORDER BY md5(i::VARCHAR)"
    with connect() as connection:
        scattered = scatter(connection, sql, tmp_path / "parts")
    parts = [scattered.read(part) for part in range(4)]
    assert [part.num_rows for part in parts] == [10_000, 10_000, 10_000, 0]
    assert parts[1].column_names == ["position", "wide"] == parts[3].column_names
    assert parts[1]["position"].to_pylist() == [i for i in range(30_000) if i * 7 % 3 == 1]
    assert parts[2]["wide"].to_pylist()[0] == [{"text": "t2"}]


def test_memory_is_bounded(tmp_path: Path) -> None:
    with connect(memory="123MiB") as connection:
        (limit,) = rows(connection, "SELECT current_setting('memory_limit') AS memory")
    assert limit["memory"].startswith("123")
