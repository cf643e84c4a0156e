"""Each upstream layout, read as upstream reads it."""

from pathlib import Path

import pytest

from schemas.sources import LlavaHoundSource, VidoreSource, VisragSource
from tests.sampling.files import jpeg, only, write_cells, write_lines
from umer1_core.errors import SourceError
from umer1_core.media import read_frames, read_image
from umer1_core.pairs import pair_from_record
from umer1_core.sampling import list_sources, sample_source
from umer1_core.sampling.instructions import VISRAG_QUERY, VISRAG_TARGET


def pairs_of(store, spec, **options):
    sample_source(spec, 0, store, **options)
    return [pair_from_record(row) for row in store.iterate("pairs")]


def test_the_image_token_goes_and_the_rest_of_the_text_stays(mmeb, store):
    row = {"qry": "<|image_1|>\nWhat is  it?\n", "qry_image_path": "images/1.jpg", "pos_text": "a <|image_1|> b"}
    (pair,) = pairs_of(store, only(mmeb([row])))
    assert (pair.query.text, pair.target.text) == ("What is  it?", "a  b")
    assert read_image(pair.query.media[0]) == jpeg(20)
    assert (pair.source, pair.modality) == ("mmeb/OK-VQA", "image")


def test_a_token_without_a_path_has_no_media(mmeb, store):
    (pair,) = pairs_of(store, only(mmeb([{"qry": "<|image_1|>\nWhich flag?", "pos_image_path": "images/2.jpg"}])))
    assert pair.query.media == ()
    assert pair.target.text == "" and len(pair.target.media) == 1


def test_negatives_are_kept_and_one_that_cannot_be_opened_costs_nothing_else(mmeb, store):
    base = {"qry": "q", "pos_text": "p"}
    rows = [
        base | {"qry": "a", "neg_text": "no", "neg_image_path": "images/3.jpg"},
        base | {"qry": "b", "neg_text": "", "neg_image_path": "images/gone.jpg"},
        base | {"qry": "c", "neg_text": "", "neg_image_path": ""},
    ]
    pairs = {pair.query.text: pair for pair in pairs_of(store, only(mmeb(rows)))}
    assert pairs["a"].negatives[0].text == "no" and len(pairs["a"].negatives[0].media) == 1
    assert pairs["b"].negatives == pairs["c"].negatives == ()
    assert store.entry("rejections", "mmeb-OK-VQA").metrics["negatives_dropped"] == 1


def test_clips_are_read_from_folders_and_archives_in_natural_order(hound, store):
    spec = list_sources([hound])[0]
    pairs = pairs_of(store, spec)
    clips = {pair.query.media[0].uri.rpartition("/")[2]: pair.query.media[0] for pair in pairs}
    assert clips["folder"].frames == tuple(f"c01_{n}.jpeg" for n in (1, 2, 4, 5, 7, 8, 10, 12))
    assert read_frames(clips["chunk_0.tar.gz"]) == [jpeg(100), jpeg(101), jpeg(102)]


def test_the_three_builders_speak_upstreams_words(hound, store):
    for spec in list_sources([hound]):
        sample_source(spec, 0, store)
    pairs = [pair_from_record(row) for row in store.iterate("pairs")]
    first = {p.source: p for p in pairs if "A car." in p.query.text + p.target.text and "folder" in str(p)}
    caption, video, qa = (first[f"llava_hound/{name}"] for name in ("caption_retrieval", "video_retrieval", "qa"))
    assert (caption.query.text, caption.target.text) == ("What moves?", "A car.")
    assert video.query.text == "Find a video that contains the following visual content: A car."
    assert video.query.media == () and len(video.target.media) == 1
    assert video.target.text == "Understand the content of the provided video."
    assert qa.query.text == "Answer a question based on the content of a video. What moves?"
    assert caption.query.media == qa.query.media == video.target.media


def test_an_archive_that_breaks_off_stops_the_source_with_its_name(hound, store):
    archive = Path(hound.root) / "train_300k/chunk_0.tar.gz"
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(SourceError, match=r"chunk_0\.tar\.gz.*Download the archive again"):
        pairs_of(store, list_sources([hound])[0])


def test_bad_clips_and_records_are_refused_one_by_one(hound, store):
    records = [turn_of("empty"), turn_of("missing"), turn_of("../escape"), "{not json", {"video": "folder"}]
    write_lines(Path(hound.root), [*records, turn_of("folder", said="")])
    qa = only(LlavaHoundSource(root=hound.root, builders=["qa"]))
    assert pairs_of(store, qa) == []
    assert store.entry("rejections", "llava_hound-qa").metrics["rejected"] == {
        "bad_record": 2,
        "clip_without_frames": 1,
        "empty_query": 1,
        "media_missing": 1,
        "path_outside_root": 1,
    }


def turn_of(video: str, said: str = "What?") -> dict:
    return {"video": video, "conversations": [{"value": said}, {"value": "This."}]}


def test_vidore_asks_a_page_and_expects_the_answer(tmp_path, store):
    rows = [{"image": {"bytes": jpeg(n), "path": None}, "query": f"q{n}", "answer": f"a{n}"} for n in range(5)]
    write_cells(tmp_path / "v", rows)
    pairs = pairs_of(store, only(VidoreSource(root=str(tmp_path / "v"))))
    assert len(pairs) == 5
    for pair in pairs:
        number = int(pair.target.text[1:])
        assert pair.query.text == f"Represent the given image with the following question: q{number}"
        assert pair.query.media[0].member == f"image#{number}"
        assert read_image(pair.query.media[0]) == jpeg(number)


def test_visrag_pairs_are_named_by_their_own_source(tmp_path, store):
    rows = [
        {"query": "How many?", "image": {"bytes": jpeg(1), "path": "1.png"}, "source": "ChartQA"},
        {"query": "How many?", "image": {"bytes": jpeg(2), "path": "2.png"}, "source": "SlideVQA"},
        {"query": "How many?", "image": {"bytes": jpeg(3), "path": "3.png"}, "source": "Napkins"},
        {"query": " ", "image": {"bytes": jpeg(3), "path": "3.png"}, "source": "ChartQA"},
    ]
    write_cells(tmp_path / "v", rows)
    pairs = pairs_of(store, only(VisragSource(root=str(tmp_path / "v"))))
    assert {pair.source for pair in pairs} == {"visrag/ChartQA", "visrag/SlideVQA"}
    chart = next(pair for pair in pairs if pair.source == "visrag/ChartQA")
    assert chart.query.text == VISRAG_QUERY["ChartQA"] + "How many?"
    assert chart.target.text == VISRAG_TARGET["ChartQA"] and read_image(chart.target.media[0]) == jpeg(1)
    metrics = store.entry("rejections", "visrag").metrics
    assert metrics["rejected"] == {"empty_query": 1, "unknown_source": 1}
    assert metrics["by_source"]["visrag/ChartQA"] == {
        "read": 2, "not_drawn": 0, "pairs": 1, "rejected": {"empty_query": 1}, "modality": "visdoc",
    }  # fmt: skip
