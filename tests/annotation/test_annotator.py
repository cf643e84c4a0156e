"""The request's form, and the fingerprint and seeds that keep paid-for answers valid."""

import base64
import io
import tarfile
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from schemas.recipe import Annotation, Completion
from umer1_core.annotation.annotator import _content, annotator_fingerprint, chat_body, request_seed
from umer1_core.errors import BadInput
from umer1_core.pairs import Media, Side
from umer1_core.template import annotation_text


def settings(**changes: object) -> Annotation:
    return Annotation.model_validate({"model": "m"} | changes)


def asked(side: Side, by_reference: bool = False, **changes: object) -> dict:
    return orjson.loads(chat_body(side, settings(**changes), seed=7, temperature=0.5, by_reference=by_reference))


def urls(body: dict) -> list[str]:
    parts = body["messages"][0]["content"]
    return [part[part["type"]]["url"] for part in parts if part["type"] != "text"]


def image_bytes(kind: str = "JPEG", size: int = 32) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)).save(sink, kind)
    return sink.getvalue()


def image_file(path: Path, data: bytes | None = None) -> Media:
    path.write_bytes(data or image_bytes())
    return Media("image", str(path))


def test_media_come_first_then_the_text_with_the_prompt_in_one_user_turn(tmp_path):
    for i in range(2):
        image_file(tmp_path / f"{i}.jpg")
    side = Side(
        'a "quoted"\ntext', (image_file(tmp_path / "a.jpg"), Media("video", str(tmp_path), frames=("0.jpg", "1.jpg")))
    )
    (message,) = asked(side)["messages"]
    assert message["role"] == "user"
    assert [part["type"] for part in message["content"]] == ["image_url", "video_url", "text"]
    assert message["content"][-1]["text"] == annotation_text(side.text)


@given(st.text(st.characters(codec="utf-8")))
def test_the_body_is_json_whatever_the_text(text):
    assert asked(Side(text))["messages"][0]["content"] == [{"type": "text", "text": annotation_text(text)}]


def test_nothing_is_sent_that_was_not_asked_for():
    body = asked(Side("x"))
    assert body == {
        "model": "m",
        "messages": body["messages"],
        "temperature": 0.5,
        "top_p": 1.0,
        "max_tokens": 8704,
        "seed": 7,
        "skip_special_tokens": False,
    }


def test_a_loop_stop_and_a_thinking_budget_travel_under_the_names_of_vllm():
    body = asked(Side("x"), stop_loops={"min_period": 2, "max_period": 50, "min_count": 30}, thinking_budget=900)
    assert body["repetition_detection"] == {"min_pattern_size": 2, "max_pattern_size": 50, "min_count": 30}
    assert body["thinking_token_budget"] == 900


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_an_image_travels_as_the_bytes_it_is_under_its_own_type(tmp_path, kind):
    data = image_bytes(kind)
    (url,) = urls(asked(Side("", (image_file(tmp_path / "no-suffix", data),))))
    head, _, payload = url.partition(",")
    assert head == f"data:image/{kind.lower()};base64" and base64.b64decode(payload) == data


def test_by_reference_a_plain_file_goes_as_its_percent_encoded_absolute_path(tmp_path, monkeypatch):
    folder = tmp_path / "a b#c?é%"
    folder.mkdir()
    image_file(folder / "x.jpg")
    monkeypatch.chdir(tmp_path)
    for uri in (str(folder / "x.jpg"), f"file://{folder}/x.jpg", "a b#c?é%/x.jpg"):
        (url,) = urls(asked(Side("", (Media("image", uri),)), by_reference=True))
        assert url == (folder / "x.jpg").as_uri()


def test_by_reference_what_is_no_file_of_its_own_still_goes_inline(tmp_path):
    image_file(tmp_path / "x.jpg")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "x.jpg", "x.jpg")
    side = Side(
        "", (Media("image", str(tmp_path / "t.tar"), member="x.jpg"), Media("video", str(tmp_path), frames=("x.jpg",)))
    )
    assert [url.partition(";")[0] for url in urls(asked(side, by_reference=True))] == [
        "data:image/jpeg",
        "data:video/jpeg",
    ]


@pytest.mark.parametrize("by_reference", [True, False])
def test_a_missing_file_is_this_rows_fault_before_a_server_has_to_say_so(tmp_path, by_reference):
    with pytest.raises(BadInput, match="media_missing"):
        asked(Side("", (Media("image", str(tmp_path / "none.jpg")),)), by_reference=by_reference)


# -- identity --------------------------------------------------------------------------------------------------------


def test_the_first_answers_seed_is_that_of_earlier_versions():
    assert request_seed("ab" * 16, Completion(), 0) == 1016882189
    assert request_seed("ab" * 16, Completion(seed=3), 2, sample=0, attempt=1) == 407376673


def test_every_round_sample_and_attempt_has_a_seed_of_its_own_that_servers_accept():
    seeds = {request_seed("k", Completion(), r, s, a) for r in range(5) for s in range(5) for a in range(1, 6)}
    assert len(seeds) == 125 and max(seeds) < 1 << 31


def test_answers_paid_for_by_earlier_versions_stay_valid():
    assert annotator_fingerprint(settings()) == "0ea7dca3f252245d"


@pytest.mark.parametrize(
    "change",
    [{"thinking_budget": 9}, {"model": "n"}, {"completion": {"temperature": 0.9}}, {"completion": {"seed": 1}}],
)
def test_what_changes_an_answer_changes_the_fingerprint(change):
    assert annotator_fingerprint(settings(**change)) != annotator_fingerprint(settings())


@pytest.mark.parametrize(
    "change", [{"stop_loops": {}}, {"samples": 3}, {"ladder": {"attempts": 5}}, {"media": "inline"}]
)
def test_what_changes_no_kept_answer_leaves_the_fingerprint(change):
    assert annotator_fingerprint(settings(**change)) == annotator_fingerprint(settings())


def test_a_models_folder_is_read_once_and_again_when_a_file_changes(tmp_path):
    (tmp_path / "config.json").write_text("1")
    annotation = settings(model=str(tmp_path))
    before = _content.cache_info().misses
    first = annotator_fingerprint(annotation)
    assert annotator_fingerprint(annotation) == first and _content.cache_info().misses == before + 1
    (tmp_path / "config.json").write_text("22")
    assert annotator_fingerprint(annotation) != first
