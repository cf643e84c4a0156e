"""Own pairs: one form in JSON lines, Parquet and CSV, and messages that say what was expected."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.sources import OwnSource
from tests.sampling.files import jpeg, only
from umer1_core.errors import SourceError
from umer1_core.media import read_image
from umer1_core.pairs import Pair, pair_from_record
from umer1_core.sampling import list_sources, sample_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures a.jpg to c.jpg, a clip of 12 frames, and a member of pack.zip's folder."""
    folder = tmp_path / "data"
    (folder / "clip").mkdir(parents=True)
    for number, name in enumerate("abc"):
        (folder / f"{name}.jpg").write_bytes(jpeg(number * 40))
    for number in range(12):
        (folder / f"clip/f{number}.jpg").write_bytes(jpeg(number))
    return folder


def own(folder: Path, records: list | str | bytes, name: str = "pairs.jsonl", **settings: object) -> OwnSource:
    lines = records if isinstance(records, str) else None
    if isinstance(records, bytes):
        (folder / name).write_bytes(records)
    else:
        (folder / name).write_text(lines if lines is not None else "\n".join(json.dumps(r) for r in records))
    return OwnSource(name="mine", files=[str(folder / name)], **settings)


def pairs_of(store, source: OwnSource) -> list[Pair]:
    sample_source(only(source), 0, store)
    return [pair_from_record(row) for row in store.iterate("pairs")]


def rejections(store) -> list[dict]:
    return list(store.iterate("rejections"))


def test_sides_have_text_pictures_and_clips_in_any_mixture(folder, store):
    records = [
        {"id": "1", "query": {"text": " two ", "image": ["a.jpg", "b.jpg"]}, "target": {"text": "x"}},
        {"id": "2", "query": {"text": "clip"}, "target": {"video": "clip"}, "negatives": [{"image": "c.jpg"}, {}]},
        {"id": 3, "query": {"text": "order", "video": ["clip/f7.jpg", "clip/f1.jpg"]}, "target": {"image": "c.jpg"}},
    ]
    two, clip, order = sorted(pairs_of(store, own(folder, records)), key=lambda pair: pair.row)
    assert two.query.text == "two" and [read_image(m) for m in two.query.media] == [jpeg(0), jpeg(40)]
    assert (two.modality, clip.modality, order.modality) == ("image", "video", "video")
    assert clip.target.media[0].frames == tuple(f"f{n}.jpg" for n in (0, 1, 3, 4, 6, 7, 9, 11))
    assert order.query.media[0].frames == ("f7.jpg", "f1.jpg")
    assert [len(n.media) for n in clip.negatives] == [1]
    assert (two.source, two.row) == ("own/mine", "pairs.jsonl#0")


def test_the_number_of_frames_and_the_modality_can_be_set(folder, store):
    (pair,) = pairs_of(store, own(folder, [{"query": {"text": "q"}, "target": {"video": "clip"}}], frames=3))
    assert pair.target.media[0].frames == ("f0.jpg", "f5.jpg", "f11.jpg")
    records = [{"query": {"text": "q"}, "target": {"image": "a.jpg"}}]
    (spec,) = list_sources([own(folder, records, modality="visdoc")])
    assert spec.modality == "visdoc"


def test_instructions_stand_before_the_text_and_are_no_side_alone(folder, store):
    records = [
        {"query": {"text": "red"}, "target": {"image": "a.jpg"}},
        {"query": {}, "target": {"text": "lost"}},
        {"query": {"text": "q"}, "target": {"text": ""}},
    ]
    settings = {"query_instruction": "Find it:", "target_instruction": "Represent the picture."}
    (pair,) = pairs_of(store, own(folder, records, **settings))
    assert (pair.query.text, pair.target.text) == ("Find it: red", "Represent the picture.")
    assert [row["reason"] for row in rejections(store)] == ["empty_query", "empty_target"]


def test_the_same_pairs_come_from_lines_a_list_parquet_csv_and_gzip(folder, store, tmp_path):
    flat = [{"id": f"{n}", "query_text": f"q{n}", "target_image": f"{name}.jpg"} for n, name in enumerate("abc")]
    records = [
        {"id": r["id"], "query": {"text": r["query_text"]}, "target": {"image": r["target_image"]}} for r in flat
    ]
    pq.write_table(pa.Table.from_pylist(flat), folder / "flat.parquet")
    pq.write_table(pa.Table.from_pylist(records), folder / "nested.parquet")
    rows = "".join(f"{r['id']},{r['query_text']},{r['target_image']}\n" for r in flat)
    sources = {
        "lines": own(folder, records), "list": own(folder, json.dumps(records), "list.json"),
        "flat": OwnSource(name="mine", files=[str(folder / "flat.parquet")]),
        "nested": OwnSource(name="mine", files=[str(folder / "nested.parquet")]),
        "csv": own(folder, "\ufeffid,query_text,target_image\n" + rows, "pairs.csv"),
        "gzip": own(folder, gzip.compress("\n".join(map(json.dumps, records)).encode()), "zipped.jsonl.gz"),
    }  # fmt: skip
    ids = {}
    for name, source in sources.items():
        other = type(store)(str(tmp_path / name))
        ids[name] = {(p.pair_id, p.query.key, p.target.key) for p in pairs_of(other, source)}
    assert len(ids["lines"]) == 3 and all(found == ids["lines"] for found in ids.values())


def test_pictures_may_be_cells_of_the_table(folder, store):
    table = pa.table(
        {"query_text": ["q0", "q1", "q2"], "target_image": pa.array([jpeg(1), jpeg(2), None], pa.binary())}
    )
    pq.write_table(table, folder / "cells.parquet")
    pairs = pairs_of(store, OwnSource(name="mine", files=[str(folder / "cells.parquet")]))
    assert sorted(pair.target.media[0].member for pair in pairs) == ["target_image#0", "target_image#1"]
    assert {read_image(pair.target.media[0]) for pair in pairs} == {jpeg(1), jpeg(2)}
    assert [row["reason"] for row in rejections(store)] == ["empty_target"]


def test_negatives_of_a_table_are_one_or_a_list(folder, store):
    rows = [{"query_text": "q", "target_text": "t", "negative_text": ["x", "y"], "negative_image": ["a.jpg"]}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "n.parquet")
    (pair,) = pairs_of(store, OwnSource(name="mine", files=[str(folder / "n.parquet")]))
    assert [(n.text, len(n.media)) for n in pair.negatives] == [("x", 1), ("y", 0)]


def test_rows_without_an_id_are_known_by_their_content(folder, store):
    record = {"query": {"text": "q"}, "target": {"image": "a.jpg"}}
    pairs = pairs_of(store, own(folder, [record, record, {"query": {"text": "q"}, "target": {"image": "b.jpg"}}]))
    assert len({pair.pair_id for pair in pairs}) == 2
    assert [(row["reason"], row["row"]) for row in rejections(store)] == [("duplicate_row", "pairs.jsonl#1")]


def test_an_identity_does_not_depend_on_where_the_file_lies(folder, store, tmp_path):
    moved = tmp_path / "moved"
    records = [{"query": {"text": "q"}, "target": {"image": "a.jpg"}}]
    first = pairs_of(store, own(folder, records))
    folder.rename(moved)
    second = pairs_of(type(store)(str(tmp_path / "second")), OwnSource(name="mine", files=[str(moved / "*.jsonl")]))
    assert [pair.pair_id for pair in first] == [pair.pair_id for pair in second]


def test_paths_are_taken_from_the_root_where_one_is_given(folder, store, tmp_path):
    source = own(tmp_path, [{"query": {"text": "q"}, "target": {"image": "a.jpg"}}], root=str(folder))
    assert pairs_of(store, source)[0].target.media[0].uri == str(folder / "a.jpg")


BAD = [
    ('{"query": {"text": "q"', "bad_record", "line 1 of", "no JSON"),
    ("[1]", "bad_record", "item 1 of", "not an object"),
    ('{"query": "q", "target": {"text": "t"}}', "bad_field", "query of row 0", "expected an object with text"),
    ('{"query": {"text": 3}, "target": {"text": "t"}}', "bad_field", "query.text of row 0", "is int; expected text"),
    ('{"query": {"image": {}}, "target": {"text": "t"}}', "bad_field", "query.image of row 0", "expected a path"),
    ('{"query": {"txt": "q"}, "target": {"text": "t"}}', "bad_field", "query of row 0", "'text' is meant"),
    ('{"id": [1], "query": {"text": "q"}, "target": {"text": "t"}}', "bad_field", "id of row 0", "expected text or"),
    ('{"query": {"text": "q"}, "target": {"text": "t"}, "negatives": "x"}', "bad_field", "negatives of row", "a list"),
    ('{"query": {"text": "q"}, "target": {"image": "../x.jpg"}}', "path_outside_root", "target.image of", "leaves"),
    ('{"query": {"text": "q"}, "target": {"image": "/etc/passwd"}}', "path_outside_root", "target.image", "leaves"),
    ('{"query": {"text": "q"}, "target": {"video": "nowhere"}}', "media_missing", "target.video of row 0", "nowhere"),
    ('{"query": {"text": "q"}, "target": {"video": "pairs.mp4"}}', "media_missing", "target.video of", "pairs.mp4"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "reason", "place", "expected"), BAD)
def test_a_bad_row_is_recorded_with_place_field_and_what_was_expected(folder, store, line, reason, place, expected):
    good = '{"query": {"text": "q"}, "target": {"text": "t"}}'
    text = line if line.startswith("[") else f"{line}\n{good}\n"
    assert len(pairs_of(store, own(folder, text))) == (0 if line.startswith("[") else 1)
    (row,) = rejections(store)
    assert row["reason"] == reason and row["row"] == "pairs.jsonl#0"
    assert place in row["detail"] and "pairs.jsonl" in row["detail"] and expected in row["detail"]


def test_csv_rows_of_another_length_are_recorded(folder, store):
    source = own(folder, "query_text,target_text\na,b\nc\nd,e,f\n\n", "pairs.csv")
    assert len(pairs_of(store, source)) == 1
    assert [row["row"] for row in rejections(store)] == ["pairs.csv#1", "pairs.csv#2"]
    assert "has 1 cells, the header has 2" in rejections(store)[0]["detail"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "qurey_text,target_text\na,b\n", r"column `qurey_text`.*Did you mean `query_text`"),
        (
            "x.csv",
            "question,answer\na,b\n",
            r"no query or no target.*question, answer.*known columns are id, query_text",
        ),
        ("x.csv", "", r"no query or no target \(its columns: none\)"),
        ("x.jsonl", '{"question": "a"}', r"no query or no target.*known fields are id, query, target"),
        ("x.jsonl", '{"querry": {}, "target": {}}', r"field `querry`.*Did you mean `query`"),
        ("x.txt", "a", r"x\.txt is of no known form.*\.jsonl"),
        ("x.csv", b"query_text,target_text\n\xff\xfe,b\n", r"cannot be read as CSV.*UTF-8"),
    ],
)
def test_a_file_of_another_form_stops_with_what_is_known(folder, store, name, content, said):
    with pytest.raises(SourceError, match=said):
        pairs_of(store, own(folder, content, name))


def test_columns_that_are_nobodys_business_are_left_alone(folder, store):
    text = "licence,query_text,target_text\nCC0,a,b\n"
    assert len(pairs_of(store, own(folder, text, "pairs.csv"))) == 1


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(SourceError, match=r"own/mine: there is no file .*nowhere/\*\.jsonl.*Correct `files`"):
        list_sources([OwnSource(name="mine", files=[f"{tmp_path}/nowhere/*.jsonl"])])
