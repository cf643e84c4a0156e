"""Rows by number through a cache that is bounded in bytes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
import pytest

from tests.student import cold_start_row, small_pairs
from umer1_core.errors import StorageError
from umer1_core.store import Store
from umer1_core.training.data.row_groups import RowGroups

COLUMNS = ["pair_id", "query_prompt", "query_media"]


@pytest.fixture
def store(tmp_path):
    """Two shards of 36 rows in row groups of 6."""
    store = Store(str(tmp_path / "data"))
    rows = [cold_start_row(pair) for pair in small_pairs(tmp_path)] * 3
    for shard in range(2):
        named = [row | {"pair_id": f"{shard}-{i}"} for i, row in enumerate(rows)]
        store.write_shard("cold_start", f"{shard:05d}", named)
        path = store.at(store.shard_name("cold_start", f"{shard:05d}"))
        pq.write_table(pq.read_table(path), path, row_group_size=6)
    return store


def row_groups(store, limit=1 << 20):
    return RowGroups(store, store.entries("cold_start"), COLUMNS, limit)


def test_rows_come_in_the_order_asked_for_with_the_columns_asked_for(store):
    rows = row_groups(store).rows([40, 3, 71, 3, 36])
    assert [row["pair_id"] for row in rows] == ["1-4", "0-3", "1-35", "0-3", "1-0"]
    assert list(rows[0]) == COLUMNS and rows[0]["query_media"][0]["kind"] == "image"


def test_rows_come_from_an_object_store_too(store):
    remote = Store(f"memory://row-groups{store.root}")
    remote.write_shard("cold_start", "00000", store.read_shard("cold_start", "00001"))
    assert row_groups(remote).rows([4, 0]) == row_groups(store).rows([40, 36])


def test_only_the_row_group_of_a_row_is_read(store):
    groups = row_groups(store)
    groups.rows([0, 5, 2])
    whole = pq.read_table(store.at(store.shard_name("cold_start", "00000")), columns=COLUMNS)
    assert groups.groups_read == 1 and groups.bytes_kept < whole.nbytes / 3


def test_the_cache_never_keeps_more_bytes_than_its_limit(store):
    free = row_groups(store)
    free.rows(range(72))
    limit = free.bytes_kept // 3
    bounded = row_groups(store, limit)
    kept = []
    for number in range(0, 72, 6):
        bounded.rows([number])
        kept.append(bounded.bytes_kept)
    assert max(kept) <= limit and kept[-1] > limit / 2, "and it does keep some"
    read = bounded.groups_read
    bounded.rows([71])
    assert bounded.groups_read == read, "the group used last is still there"
    bounded.rows([0])
    assert bounded.groups_read == read + 1, "the one used first is not"


def test_a_group_larger_than_the_limit_is_read_and_not_kept(store):
    groups = row_groups(store, 10)
    assert groups.rows([1])[0]["pair_id"] == "0-1" and groups.bytes_kept == 0


def test_threads_that_want_one_group_read_it_once(store):
    groups, ready = row_groups(store), threading.Barrier(8)

    def read(number):
        ready.wait()
        return groups.rows([number % 6])[0]["pair_id"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(8))) == [f"0-{i % 6}" for i in range(8)]
    assert groups.groups_read == 1


def test_a_damaged_shard_is_named_every_time(store):
    path = store.at(store.shard_name("cold_start", "00001"))
    with open(path, "wb") as file:
        file.write(b"PAR1 no more")
    groups = row_groups(store)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"00001\.parquet cannot be read"):
            groups.rows([40])
    assert groups.rows([0])[0]["pair_id"] == "0-0"
