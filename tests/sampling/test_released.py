"""Released data: what the authors put around a side is taken off again, and their responses become annotations."""

import json
from collections import Counter
from pathlib import Path

import pytest

from schemas.sources import ReleasedSource
from tests.sampling.files import jpeg, only
from umer1_core.errors import SourceError
from umer1_core.pairs import pair_from_record
from umer1_core.sampling import index_sides, list_sources, sample_source
from umer1_core.sampling.instructions import VISRAG_QUERY
from umer1_core.sampling.released import SOURCES
from umer1_core.sampling.survey import count_sides, survey_source
from umer1_core.store import Store
from umer1_core.template import GENERATION_PROMPT, parse_annotation, training_prompt, training_response

DEMO_PROMPT = GENERATION_PROMPT.replace(". ", ".  \n")


def turn(text: str, answered: str = "", end: str = f"\n<disc_emb>\n{GENERATION_PROMPT}") -> dict:
    turns = [{"from": "human", "value": text + end}]
    return {"conversations": [*turns, {"from": "gpt", "value": answered}] if answered else turns}


def sft(name: str, qry: dict, pos: dict) -> dict:
    return {"dataset_name": name, "qry": qry, "pos": pos}


def rl(name: str, **fields: object) -> dict:
    blank = {f"{side}_{kind}": "" for side in ("qry", "pos") for kind in ("text", "image")}
    return {"dataset": name, "solution": "<embedding>", "qry_video": [""], "pos_video": [""]} | blank | fields


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "MMEB-train"
    for path in ("images/CIRR/a.jpg", "images/CIRR/b.jpg", "visrag/images/0.jpg", "images/blank.jpg"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(jpeg(len(path)))
    for number in range(8):
        (root / "video/v1").mkdir(parents=True, exist_ok=True)
        (root / f"video/v1/f{number}.jpg").write_bytes(jpeg(number))
    return root


def released(root: Path, records: list, name: str = "UME-sft-train.json", **settings: object) -> ReleasedSource:
    file = root / name
    lines = "\n".join(json.dumps(r) for r in records)
    file.write_text(lines if name.endswith("l") else json.dumps(records, indent=4))
    return ReleasedSource(files=[str(file)], root=str(root), **settings)


def pairs_of(store: Store, source: ReleasedSource) -> list:
    sample_source(only(source), 0, store)
    return [pair_from_record(row) for row in store.iterate("pairs")]


def annotations(store: Store) -> list[dict]:
    return list(Store(f"{store.root}/imported").iterate("annotations"))


def test_a_side_is_its_text_and_media_without_what_training_put_around_them(root, store):
    qry = {"image": "MMEB-train/images/CIRR/a.jpg", **turn("<image>Given an image, find a red one ")}
    pos = {"image": "MMEB-train/images/CIRR/b.jpg", **turn("<image>\nRepresent the given image.")}
    (pair,) = pairs_of(store, released(root, [sft("CIRR", qry, pos)]))
    assert (pair.query.text, pair.target.text) == ("Given an image, find a red one", "Represent the given image.")
    assert (pair.source, pair.modality, pair.row) == ("mmeb/CIRR", "image", "UME-sft-train.json#0")
    assert pair.query.media[0].uri == str(root / "images/CIRR/a.jpg")


@pytest.mark.parametrize(
    "end",
    [f"\n<disc_emb>\n{GENERATION_PROMPT}", f" \n<disc_emb>\n{GENERATION_PROMPT}", f"\n<disc_emb>\n{DEMO_PROMPT}\n"],
)
def test_the_three_spellings_of_the_prompt_are_taken_off(root, store, end):
    (pair,) = pairs_of(store, released(root, [sft("CIRR", turn("a dog", end=end), turn("dog"))]))
    assert pair.query.text == "a dog"
    assert training_prompt(pair.query.text).startswith("a dog\n<disc_emb>\n")


def test_another_prompt_behind_the_tag_is_refused_not_guessed(root, store):
    record = sft("CIRR", turn("a dog", end="\n<disc_emb>\nEmbed this, please."), turn("dog"))
    assert pairs_of(store, released(root, [record])) == []
    assert store.entry("rejections", "released-UME-sft-train").metrics["rejected"] == {"reserved_tag": 1}


def test_a_blank_picture_is_no_picture(root, store):
    qry = {"image": "images/blank.jpg", **turn("<image>a dog")}
    pos = {"video": ["MMEB-train/images/blank.jpg"], **turn("<video>dog")}
    (pair,) = pairs_of(store, released(root, [sft("llavahound_qa", qry, pos)]))
    assert pair.query.media == pair.target.media == ()
    assert (pair.query.text, pair.source, pair.modality) == ("a dog", "llava_hound/qa", "video")


def test_a_clip_is_its_frames_in_the_order_given(root, store):
    frames = [f"MMEB-train/video/v1/f{number}.jpg" for number in (3, 1, 2)]
    (pair,) = pairs_of(store, released(root, [sft("x y", {"video": frames, **turn("<video>what?")}, turn("dog"))]))
    assert pair.query.media[0].frames == ("f3.jpg", "f1.jpg", "f2.jpg")
    assert (pair.source, pair.modality) == ("released/x-y", "video")


def test_a_clip_given_by_its_frames_keeps_them_all(root, store):
    frames = [f"MMEB-train/video/v1/f{number % 8}.jpg" for number in range(12)]
    (pair,) = pairs_of(store, released(root, [sft("llavahound_qa", {"video": frames, **turn("q")}, turn("t"))]))
    assert len(pair.query.media[0].frames) == 12


def test_the_same_pair_in_two_files_is_two_pairs_with_equal_sides(root, store):
    released(root, [sft("CIRR", turn("q"), turn("t"))], "a.json")
    released(root, [rl("CIRR", qry_text="q", pos_text="t")], "b.json")
    for spec in list_sources([ReleasedSource(files=[f"{root}/[ab].json"], root=str(root))]):
        sample_source(spec, 0, store)
    one, other = (pair_from_record(row) for row in store.iterate("pairs"))
    assert one.pair_id != other.pair_id and one.query.key == other.query.key


def test_a_survey_counts_the_same_rows(root, store):
    records = [sft("OK-VQA", turn(f"q{n}"), turn(f"t{n % 4}")) for n in range(30)]
    spec = only(released(root, records, limit=11))
    survey = survey_source(spec, 5)
    assert (survey.read, survey.drawn) == (30, 11)
    sample_source(spec, 5, store)
    sides = sum(entry.rows for entry in index_sides(store, 100, 5))
    assert sum(each.sides for each in count_sides([survey], 1)) == sides


def test_the_folder_above_will_do_as_root_too(root, store):
    source = released(root, [sft("CIRR", {"image": "MMEB-train/images/CIRR/a.jpg", **turn("q")}, turn("t"))])
    (pair,) = pairs_of(store, source.model_copy(update={"root": str(root.parent)}))
    assert pair.query.media[0].uri == str(root / "images/CIRR/a.jpg")


def test_rl_records_are_told_by_their_keys_and_have_no_responses(root, store):
    prompt = VISRAG_QUERY["ChartQA"]
    records = [
        rl("CIRR", qry_text="q", qry_image="MMEB-train/images/CIRR/a.jpg", pos_text="t"),
        rl("openbmb/VisRAG-Ret-Train-In-domain-data", qry_text=f"{prompt}How many?", pos_text="A chart.",
           pos_image="MMEB-train/visrag/images/0.jpg"),
        rl("llavahound_video_retrieval", qry_text="q", pos_video=[f"MMEB-train/video/v1/f{n}.jpg" for n in range(8)]),
    ]  # fmt: skip
    pairs = {pair.source: pair for pair in pairs_of(store, released(root, records, "UME-rl-train.jsonl"))}
    assert set(pairs) == {"mmeb/CIRR", "visrag/ChartQA", "llava_hound/video_retrieval"}
    assert pairs["visrag/ChartQA"].modality == "visdoc"
    assert len(pairs["llava_hound/video_retrieval"].target.media[0].frames) == 8
    assert annotations(store) == []


def test_responses_become_annotations_of_the_sides_they_belong_to(root, store):
    thought = training_response("Looking.", "a dog") + "<|im_end|>"
    closed = "<think>T</think><answer>dog</answer>"
    records = [
        sft("OK-VQA", turn("q0", thought), turn("dog", "<think>A</think><answer>dog\n<gen_emb>")),
        sft("OK-VQA", turn("q1", thought), turn("dog", closed)),
        sft("OK-VQA", turn("q2"), turn("dog", "<think>C</think><answer>dog\n<gen_emb>")),
    ]
    pairs = pairs_of(store, released(root, records))
    rows = annotations(store)
    target = pairs[0].target.key
    assert [(r["sample"], r["completion"][:10]) for r in rows if r["side_key"] == target] == [
        (0, "<think>A</"), (1, "<think>T</"), (2, "<think>C</"),
    ]  # fmt: skip
    assert {r["completion"] for r in rows if r["side_key"] == pairs[0].query.key} == {
        "<think>Looking.</think><answer>a dog</answer>"
    }
    assert len(rows) == 5 and {parse_annotation(r["completion"]).problem for r in rows} == {""}
    first = rows[0]
    assert (first["annotator"], first["finish_reason"], first["source"]) == (
        "imported:UME-sft-train.json", "stop", "mmeb/OK-VQA",
    )  # fmt: skip
    assert (first["completion_tokens"], first["attempts"], first["round"]) == (0, 0, 0)


def test_without_responses_only_the_pairs_are_taken(root, store):
    records = [sft("OK-VQA", turn("q", "<think>A</think><answer>b"), turn("t"))]
    assert len(pairs_of(store, released(root, records, responses=False))) == 1
    assert annotations(store) == []


def test_a_draw_takes_the_responses_of_the_drawn_rows_alone_and_is_finished_once(root, store):
    records = [sft("OK-VQA", turn(f"q{n}", f"<think>{n}</think><answer>b"), turn(f"t{n}")) for n in range(40)]
    spec = only(released(root, records, limit=7))
    entries = sample_source(spec, 3, store)
    pairs = [pair_from_record(row) for row in store.iterate("pairs")]
    drawn = {pair.query.key: pair.query.text for pair in pairs}
    assert len(pairs) == 7
    assert {r["side_key"]: r["completion"] for r in annotations(store)} == {
        key: f"<think>{text[1:]}</think><answer>b</answer>" for key, text in drawn.items()
    }
    assert sample_source(spec, 3, store) == entries
    imported = Store(f"{store.root}/imported")
    imported.delete("entries/annotations/released-UME-sft-train-00000.json")
    assert sample_source(spec, 3, store) == entries and len(annotations(store)) == 7


def test_rows_are_handed_on_in_windows_that_together_are_the_draw(root, store, monkeypatch):
    monkeypatch.setattr("umer1_core.sampling.windows.WINDOW", 6)
    records = [sft("OK-VQA", turn(f"q{n % 9}", "<think>r</think><answer>b"), turn(f"t{n}")) for n in range(20)]
    pairs = pairs_of(store, released(root, records))
    assert [pair.row for pair in pairs] == [f"UME-sft-train.json#{n}" for n in range(20)]
    samples = Counter(row["side_key"] for row in annotations(store))
    assert sorted(samples.values()) == [2] * 7 + [3] * 2
    assert {(r["side_key"], r["sample"]) for r in annotations(store)} == {
        (k, n) for k, c in samples.items() for n in range(c)
    }


def test_records_that_are_none_are_refused_each_with_its_reason(root, store):
    records = [
        "text", {"dataset_name": "CIRR", "qry": {"image": ""}, "pos": turn("t")}, {"dataset_name": "CIRR", "text": "x"},
        sft("CIRR", turn("q"), turn("")), sft("CIRR", {"image": 3, **turn("q")}, turn("t")),
        sft("CIRR", {"image": "../../x.jpg", **turn("q")}, turn("t")),
        sft("CIRR", {"image": "MMEB-train/images/CIRR/gone.jpg", **turn("q")}, turn("t")),
        sft("CIRR", turn("q"), turn("t")), sft("CIRR", turn("q"), turn("t")),
    ]  # fmt: skip
    assert len(pairs_of(store, released(root, records))) == 1
    metrics = store.entry("rejections", "released-UME-sft-train").metrics
    assert metrics["rejected"] == {
        "bad_field": 1, "bad_record": 3, "duplicate_row": 1, "empty_target": 1, "media_missing": 1,
        "path_outside_root": 1,
    }  # fmt: skip
    assert metrics["read"] == 9 == metrics["pairs"] + sum(metrics["rejected"].values())


def test_a_list_that_breaks_off_stops_with_its_place(root, store):
    source = released(root, [sft("CIRR", turn(f"q{n}"), turn("t")) for n in range(3)])
    file = root / "UME-sft-train.json"
    file.write_text(file.read_text()[:-200])
    with pytest.raises(SourceError, match=r"UME-sft-train\.json breaks off after item \d.*Download"):
        sample_source(only(source), 0, store)


def test_each_file_is_a_unit_and_equal_names_are_told_apart(root):
    for folder in ("a", "b"):
        (root / folder).mkdir()
        (root / folder / "CIRR.json").write_text("[]")
    (root / "RIME-rl.json").write_text("[]")
    source = ReleasedSource(files=[f"{root}/*/CIRR.json", f"{root}/RIME-rl.json"], root=str(root))
    names = [spec.name for spec in list_sources([source])]
    assert names == ["released/a-CIRR", "released/b-CIRR", "released/RIME-rl"]


def test_every_published_source_has_our_name():
    assert len({name for name in SOURCES.values() if name.startswith("mmeb/")}) == 20
    assert {SOURCES["llavahound_caption_retrieval"], SOURCES["vidore/colpali_train_set"]} == {
        "llava_hound/caption_retrieval", "vidore/colpali_train_set",
    }  # fmt: skip
