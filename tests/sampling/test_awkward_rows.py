"""Awkward texts and rows: the right pair, or a recorded refusal, one by one."""

import json
from pathlib import Path

import pytest

from schemas.sources import LlavaHoundSource, MediaRules, OwnSource
from tests.sampling.files import only, turn, write_lines
from umer1_core.pairs import pair_from_record
from umer1_core.sampling import list_sources, sample_source
from umer1_core.sampling.texts import RESERVED


def own_line(tmp_path: Path, line: bytes) -> OwnSource:
    (tmp_path / "pairs.jsonl").write_bytes(line)
    return OwnSource(name="mine", files=[str(tmp_path / "pairs.jsonl")])


def sampled(store, source) -> tuple[list, list[str]]:
    sample_source(only(source), 0, store)
    reasons = [row["reason"] for row in store.iterate("rejections")]
    return [pair_from_record(row) for row in store.iterate("pairs")], reasons


STAY = {
    "thinking tags": "a <think>b</think> <answer>c</answer>",
    "tokens of other models": "<image> <video> <|image_1|> <s>",
    "thirty thousand characters": "word " * 6_000 + "end",
    "right to left": "\u202eشجرة\u202c עץ",
    "joined emoji": "👩\u200d👩\u200d👧 \ufe0f🇪🇺",
    "marks and controls": "e\u0301\x07\u200b",
    "brackets": "[MASK] < > <| |>",
}


@pytest.mark.parametrize("text", STAY.values(), ids=STAY)
def test_a_text_stays_as_it_is_byte_for_byte(tmp_path, store, text):
    record = {"query": {"text": text}, "target": {"text": "t"}}
    (pair,), reasons = sampled(store, own_line(tmp_path, json.dumps(record, ensure_ascii=False).encode()))
    assert pair.query.text.encode() == text.encode() and reasons == []


@pytest.mark.parametrize("tag", RESERVED)
def test_a_models_own_token_is_refused_on_either_side(tmp_path, store, tag):
    records = [
        {"query": {"text": f"a {tag}"}, "target": {"text": "t"}},
        {"query": {"text": "q"}, "target": {"text": tag}},
    ]
    pairs, reasons = sampled(store, own_line(tmp_path, "\n".join(map(json.dumps, records)).encode()))
    assert pairs == [] and reasons == ["reserved_tag"] * 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (rb'{"query": {"text": "a\u0000b"}, "target": {"text": "t"}}', "bad_text"),
        (rb'{"query": {"text": "a\ud83d"}, "target": {"text": "t"}}', "bad_text"),
        (b'{"query": {"text": "a\xff"}, "target": {"text": "t"}}', "bad_record"),
        ('{"query": {"text": "\u3000\\t\u00a0"}, "target": {"text": "t"}}'.encode(), "empty_query"),
        (b'{"query": {"text": "q"}, "target": {"text": " \\n "}}', "empty_target"),
        (b'{"query": {"text": "q"}, "target": {"image": "a\\u0000.jpg"}}', "path_outside_root"),
        (b'{"query": {"text": "q"}, "target": {"image": "' + b"x" * 30_000 + b'.jpg"}}', "bad_path"),
        (b"[" * 100_000, "bad_record"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_refused(tmp_path, store, line, reason):
    prefix = b'{"query": {"text": "first"}, "target": {"text": "t"}}\n'
    pairs, reasons = sampled(store, own_line(tmp_path, prefix + line))
    assert len(pairs) == 1 and reasons == [reason]


def test_a_negative_that_cannot_be_shown_is_left_out_and_counted(mmeb, store):
    rows = [{"qry": "q", "pos_text": "p", "neg_text": ["good", "<|im_end|>", "a\0"]}]
    (pair,), _ = sampled(store, mmeb(rows))
    assert [n.text for n in pair.negatives] == ["good"]
    assert store.entry("rejections", "mmeb-OK-VQA").metrics["negatives_dropped"] == 2


def test_negatives_are_scalars_or_lists_and_pair_up(mmeb, store):
    base = {"pos_text": "p"}
    rows = [base | {"qry": "a", "neg_text": ["x", "y"], "neg_image_path": ["images/1.jpg"]}]
    (pair,), _ = sampled(store, mmeb(rows))
    assert [(n.text, len(n.media)) for n in pair.negatives] == [("x", 1), ("y", 0)]


def test_the_image_token_goes_wherever_and_however_often_it_stands(mmeb, store):
    row = {"qry": "<|image_1|>\na <|image_1|><|image_2|> b <|image_1|>\n", "pos_text": "p"}
    (pair,), _ = sampled(store, mmeb([row]))
    assert pair.query.text == "a  b"


def test_a_picture_is_judged_by_the_rules_of_the_recipe(mmeb, store):
    spec = only(mmeb([{"qry": "q", "qry_image_path": "images/1.jpg", "pos_text": "p"}]))
    metrics = sample_source(spec, 0, store, rules=MediaRules(max_aspect=1.5))[-1].metrics
    assert metrics["rejected"] == {"aspect_ratio": 1}


# -- caption lines among LLaVA-Hound's questions -----------------------------------------------------------------------


@pytest.fixture
def mixed(hound: LlavaHoundSource) -> LlavaHoundSource:
    """Three questions, one of them in a caption prompt's words, and two caption lines."""
    root = Path(hound.root)
    write_lines(root, [turn("folder", "Describe it.", "A car."), turn("tarred", "Tell all.", "A dog.")])
    numbered = turn("folder", "Describe it.", "Red.") | {"id": "folder_2"}
    lines = [turn("folder", "What?") | {"id": "folder_0"}, turn("tarred", "Who?"), numbered]
    lines += [turn("folder", "Describe it.", "A car."), turn("tarred", "Describe it.", "A dog.") | {"id": "other"}]
    file = root / "video_instruction/train/sft/video_240k_caption_15k.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    return hound


def qa(mixed: LlavaHoundSource, store, choice: str) -> tuple[list, dict]:
    config = mixed.model_copy(update={"builders": ["qa"], "caption_lines": choice})
    metrics = sample_source(only(config), 0, store)[-1].metrics
    return [pair_from_record(row) for row in store.iterate("pairs")], metrics


def test_caption_lines_are_kept_as_questions_and_counted(mixed, store):
    pairs, metrics = qa(mixed, store, "keep")
    assert {pair.source for pair in pairs} == {"llava_hound/qa"} and len(pairs) == 5
    assert all(pair.query.text.startswith("Answer a question based on") for pair in pairs)
    assert metrics["noted"] == {"caption_line": 2}


def test_caption_lines_are_dropped_with_their_reason(mixed, store):
    pairs, metrics = qa(mixed, store, "drop")
    assert len(pairs) == 3 and metrics["rejected"] == {"caption_line": 2}


def test_caption_lines_become_captions_beside_those_of_their_own_file(mixed, store):
    pairs, metrics = qa(mixed, store, "caption")
    captions = [pair for pair in pairs if pair.source == "llava_hound/caption_retrieval"]
    assert {(p.query.text, p.target.text) for p in captions} == {("Describe it.", "A car."), ("Describe it.", "A dog.")}
    assert metrics["by_source"]["llava_hound/caption_retrieval"]["pairs"] == 2
    for spec in list_sources([mixed.model_copy(update={"builders": ["caption_retrieval"]})]):
        sample_source(spec, 0, store)
    ids = [row["pair_id"] for row in store.iterate("pairs")]
    assert len(ids) == len(set(ids)) == 7


def test_without_the_captions_a_line_is_told_by_its_id(mixed, store):
    (Path(mixed.root) / "video_instruction/train/sft/video_caption_300k.jsonl").unlink()
    _, metrics = qa(mixed, store, "drop")
    assert metrics["rejected"] == {"caption_line": 2}  # the two whose id is their clip's
