"""The table of rollouts: whole or not at all, resumable, readable by anybody."""

import dataclasses

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from schemas.tables import ROLLOUTS, SCHEMA_VERSION, TABLES
from tests.grpo.watch.made import block, rollout, small_pairs
from umer1_core.errors import StorageError
from umer1_core.grpo.watch.rollout_table import RolloutRecord, RolloutTable


def names(table: RolloutTable) -> list[str]:
    return sorted(file.name for file in table.folder.iterdir())


def test_what_was_written_is_read(tmp_path):
    table, records = RolloutTable(tmp_path / "rollouts", done=0), block(small_pairs())
    table.write(7, records)
    assert table.read(7) == records and table.steps() == [7]
    assert names(table) == ["step-000007.parquet"]


def test_the_folder_is_one_table_of_the_published_schema(tmp_path):
    table, records = RolloutTable(tmp_path, done=0), block(small_pairs())
    table.write(1, records)
    table.write(2, records[:3])
    written = pq.read_schema(tmp_path / "step-000001.parquet")
    assert written.names == ROLLOUTS.names and written.metadata[b"umer1.schema_version"] == SCHEMA_VERSION.encode()
    found = ds.dataset(tmp_path, format="parquet").to_table()
    assert found.num_rows == len(records) + 3 and set(found["step"].to_pylist()) == {1, 2}


def test_a_record_and_the_schema_have_the_same_fields_and_the_data_set_does_not_list_it():
    assert ["step", *(field.name for field in dataclasses.fields(RolloutRecord))] == ROLLOUTS.names
    assert all(schema is not ROLLOUTS for schema in TABLES.values())


def test_a_resumed_training_drops_what_it_does_again_and_what_a_killed_writer_left(tmp_path):
    table = RolloutTable(tmp_path, done=0)
    for step in (1, 2, 3, 10):
        table.write(step, block(small_pairs()))
    (tmp_path / ".tmp-1234-step-000011.parquet").write_bytes(b"half")
    assert RolloutTable(tmp_path).steps() == [1, 2, 3, 10], "looking drops nothing"
    assert RolloutTable(tmp_path, done=2).steps() == [1, 2] and len(names(table)) == 2


def test_a_step_that_is_written_again_is_replaced(tmp_path):
    table, pairs = RolloutTable(tmp_path, done=0), small_pairs()
    table.write(1, block(pairs))
    table.write(1, [rollout(pairs[0], "query", 0)])
    assert len(table.read(1)) == 1


def test_the_steps_of_a_pair_are_found_by_how_its_name_begins(tmp_path):
    table, pairs = RolloutTable(tmp_path, done=0), small_pairs()
    assert table.steps_of(pairs[0].pair_id) == []
    table.write(1, block(pairs[:1]))
    table.write(2, block(pairs[1:]))
    table.write(9, block(pairs[:2]))
    assert table.steps_of(pairs[0].pair_id[:10]) == [1, 9] and table.steps_of(pairs[1].pair_id) == [2, 9]
    assert table.steps_of("zzz") == []


def test_a_step_without_rollouts_and_one_of_all_rejected_pairs_are_different_things(tmp_path):
    table = RolloutTable(tmp_path, done=0)
    table.write(1, [])
    assert table.read(1) == []
    with pytest.raises(StorageError, match="step 2"):
        table.read(2)


def test_a_damaged_file_is_named(tmp_path):
    table = RolloutTable(tmp_path, done=0)
    (tmp_path / "step-000003.parquet").write_bytes(b"no parquet")
    with pytest.raises(StorageError, match=r"step-000003\.parquet"):
        table.read(3)
