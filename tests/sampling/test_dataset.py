"""Any data set that `datasets` reads, from a local folder: columns become the parts of a pair, pictures stay put."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.sources import Columns, DatasetSource
from tests.sampling.files import jpeg, only
from umer1_core.errors import SourceError
from umer1_core.media import read_image
from umer1_core.pairs import Pair, pair_from_record
from umer1_core.sampling import list_sources, sample_source

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache" / "umer1"


def dataset(path: Path, settings: dict | None = None, **columns: str) -> DatasetSource:
    return DatasetSource(name="mine", path=str(path), columns=Columns(**columns), **(settings or {}))


def pairs_of(store, source: DatasetSource) -> list[Pair]:
    sample_source(only(source), 0, store)
    return sorted((pair_from_record(row) for row in store.iterate("pairs")), key=lambda pair: pair.query.text)


def write(path: Path, rows: list[dict], schema: pa.Schema | None = None) -> Path:
    (path / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path / "data/train-00000-of-00001.parquet")
    return path


def test_cells_of_parquet_stay_where_they_are(tmp_path, store, cache):
    rows = [{"q": f"q{n}", "img": {"bytes": jpeg(n * 9), "path": f"{n}.jpg"}, "a": f"a{n}"} for n in range(3)]
    source = dataset(write(tmp_path / "d", rows), query_text="q", query_image="img", target_text="a")
    pairs = pairs_of(store, source)
    assert [read_image(pair.query.media[0]) for pair in pairs] == [jpeg(0), jpeg(9), jpeg(18)]
    assert pairs[1].query.media[0].uri == str(tmp_path / "d/data/train-00000-of-00001.parquet")
    assert (pairs[1].query.media[0].member, pairs[1].source) == ("img#1", "dataset/mine") and not cache.exists()


def test_paths_in_cells_are_paths_and_fields_of_structs_are_reached(tmp_path, store):
    folder = write(
        tmp_path / "d",
        [{"id": 7, "q": {"text": "q"}, "img": {"bytes": None, "path": "p/a.jpg"}, "a": "t", "no": ["x", "y"]}],
        pa.schema([
            ("id", pa.int64()), ("q", pa.struct([("text", pa.string())])),
            ("img", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("a", pa.string()),
            ("no", pa.list_(pa.string())),
        ]),
    )  # fmt: skip
    (folder / "p").mkdir()
    (folder / "p/a.jpg").write_bytes(jpeg(3))
    columns = {"id": "id", "query_text": "q.text", "query_image": "img", "target_text": "a", "negative_text": "no"}
    settings = {"query_instruction": "Find:"}
    (pair,) = pairs_of(store, dataset(folder, settings, **columns))
    assert pair.query.text == "Find: q" and pair.query.media[0].uri == str(folder / "p/a.jpg")
    assert [negative.text for negative in pair.negatives] == ["x", "y"]


def test_lines_and_csv_are_read(tmp_path, store):
    (tmp_path / "j").mkdir()
    lines = [{"q": f"q{n}", "a": {"b": f"t{n}"}} for n in range(3)]
    (tmp_path / "j/train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [p.target.text for p in pairs_of(store, dataset(tmp_path / "j", query_text="q", target_text="a.b"))] == [
        "t0", "t1", "t2",
    ]  # fmt: skip
    (tmp_path / "c").mkdir()
    (tmp_path / "c/test.csv").write_text("q,a\nhé,ho\n")
    other = type(store)(str(tmp_path / "other"))
    (pair,) = pairs_of(other, dataset(tmp_path / "c", {"split": "test"}, query_text="q", target_text="a"))
    assert (pair.query.text, pair.target.text) == ("hé", "ho")


def test_a_folder_of_images_keeps_its_files(tmp_path, store):
    folder = tmp_path / "d/train"
    folder.mkdir(parents=True)
    (folder / "1.jpg").write_bytes(jpeg(3))
    (folder / "metadata.jsonl").write_text('{"file_name": "1.jpg", "text": "red"}')
    (pair,) = pairs_of(store, dataset(tmp_path / "d", query_text="text", target_image="image"))
    assert pair.target.media[0].uri == str(folder / "1.jpg")


def test_embedded_images_of_other_forms_are_written_once_as_cells(tmp_path, store, cache):
    (tmp_path / "d").mkdir()
    with tarfile.open(tmp_path / "d/train-0.tar", "w") as tar:
        for number in range(3):
            for suffix, data in (("jpg", jpeg(number)), ("txt", f"t{number}".encode())):
                info = tarfile.TarInfo(f"{number:04d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    source = dataset(tmp_path / "d", query_text="txt", target_image="jpg")
    pairs = pairs_of(store, source)
    assert [read_image(pair.target.media[0]) for pair in pairs] == [jpeg(0), jpeg(1), jpeg(2)]
    (file,) = cache.iterdir()
    assert pairs[0].target.media[0].uri == str(file)
    written = file.stat().st_mtime_ns
    again = pairs_of(type(store)(str(tmp_path / "again")), source)
    assert [p.pair_id for p in again] == [p.pair_id for p in pairs] and file.stat().st_mtime_ns == written
    assert [path.name for path in cache.iterdir()] == [file.name]


def test_what_save_to_disk_left_is_read_by_split(tmp_path, store):
    features = datasets.Features({"q": datasets.Value("string"), "im": datasets.Image()})
    rows = {"q": ["a", "b"], "im": [{"bytes": jpeg(1), "path": None}, {"bytes": jpeg(2), "path": None}]}
    saved = datasets.Dataset.from_dict(rows, features=features)
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "d"))
    pairs = pairs_of(store, dataset(tmp_path / "d", query_text="q", target_image="im"))
    assert [read_image(pair.target.media[0]) for pair in pairs] == [jpeg(1), jpeg(2)]
    with pytest.raises(SourceError, match=r"has no split dev \(its splits: train\)"):
        list_sources([dataset(tmp_path / "d", {"split": "dev"}, query_text="q", target_image="im")])


@pytest.mark.parametrize(
    ("columns", "settings", "said"),
    [
        ({"query_text": "q", "target_text": "answr"}, {}, r"no column `answr` for target_text.*Did you mean `answer`"),
        ({"query_text": "q.x", "target_text": "q"}, {}, r"the column `q` has no field `x`"),
        ({"query_text": "q", "target_image": "n"}, {}, r"column `n` is int64; target_image must be paths"),
        ({"query_text": "q", "target_video": "img"}, {}, r"column `img` is .*; target_video must be paths"),
        ({"query_text": "q"}, {}, r"`columns` maps nothing to the target.*Set target_text"),
        ({"target_text": "q"}, {}, r"`columns` maps nothing to the query"),
        ({"query_text": "q", "target_text": "q"}, {"split": "dev"}, r"no split dev \(its splits: train\)"),
    ],
)
def test_a_wrong_mapping_is_answered_with_what_there_is(tmp_path, store, columns, settings, said):
    rows = [{"q": "q", "answer": "a", "n": 1, "img": {"bytes": jpeg(1), "path": "1.jpg"}}]
    write(tmp_path / "d", rows)
    with pytest.raises(SourceError, match=said):
        pairs_of(store, dataset(tmp_path / "d", settings, **columns))


def test_a_data_set_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"dataset/mine: `datasets` finds nothing to read at .*nowhere"):
        list_sources([dataset(tmp_path / "nowhere", query_text="q", target_text="a")])


def test_a_cell_of_another_type_is_refused_row_by_row(tmp_path, store):
    write(tmp_path / "d", [{"q": ["a"], "a": "t"}])
    assert pairs_of(store, dataset(tmp_path / "d", query_text="q", target_text="a")) == []
    (row,) = store.iterate("rejections")
    assert row["reason"] == "bad_field" and "query.text of row 0" in row["detail"] and "list" in row["detail"]
