"""The annotator is sent the bytes as they are, or exactly the picture that the student gets."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from schemas.sources import MediaRules
from tests.media.pictures import encoded, jpeg, quarters, turned_jpeg
from umer1_core.media import clip_from_folder, data_url, describe, file_url, read_frames, read_image, rendered
from umer1_core.pairs import Media


def _described(tmp_path, data, **rules):
    (tmp_path / "x").write_bytes(data)
    return describe(Media("image", str(tmp_path / "x")), MediaRules(**rules))


def _sent(media, lossless=False) -> list[bytes]:
    return [base64.b64decode(part) for part in data_url(media, lossless).partition(b";base64,")[2].split(b",")]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_ordinary_picture_travels_as_its_bytes_and_by_its_file(tmp_path, form):
    data = encoded(quarters(), form)
    described = _described(tmp_path, data)
    assert data_url(described).startswith(b"data:image/" + form.lower().encode())
    assert _sent(described) == [data]
    assert file_url(described) == f"file://{tmp_path}/x".encode()


@pytest.mark.parametrize(
    "data",
    [
        turned_jpeg(6),
        encoded(Image.fromarray(np.linspace(0, 65_535, 960).astype(np.uint16).reshape(24, 40)), "PNG"),
        encoded(quarters().convert("RGBA"), "PNG"),
        encoded(quarters(), "TIFF"),
    ],
)
def test_a_picture_with_notes_travels_as_the_student_gets_it(tmp_path, data):
    described = _described(tmp_path, data)
    (sent,) = _sent(described)
    assert data_url(described).startswith(b"data:image/jpeg;") and file_url(described) is None
    ours = np.array(rendered(read_image(described), described.notes)).astype(int)
    theirs = np.array(Image.open(io.BytesIO(sent))).astype(int)  # a server that knows of nothing
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 12
    (whole,) = _sent(described, lossless=True)
    assert data_url(described, lossless=True).startswith(b"data:image/png;")
    assert (ours == np.array(Image.open(io.BytesIO(whole)))).all()


def test_a_picture_over_the_limit_travels_at_its_noted_size(tmp_path):
    described = _described(tmp_path, jpeg(100, 60), max_pixels=2_000)
    assert described.notes == ("resize:56x28",)
    assert Image.open(io.BytesIO(_sent(described)[0])).size == (56, 28)


def test_a_clip_is_sent_as_its_frames_and_rendered_where_they_have_notes(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(100, 60))
    plain = describe(clip_from_folder(tmp_path, 8))
    assert plain.notes == () and _sent(plain) == read_frames(plain)
    small = describe(clip_from_folder(tmp_path, 8), MediaRules(max_pixels=2_000))
    assert small.notes == ("resize:56x28",) and small.content_hash == plain.content_hash
    assert {Image.open(io.BytesIO(frame)).size for frame in _sent(small)} == {(56, 28)}
    assert _sent(plain, lossless=True) == read_frames(plain)
    for sent, frame in zip(_sent(small, lossless=True), read_frames(small), strict=True):
        assert (np.array(Image.open(io.BytesIO(sent))) == np.array(rendered(frame, small.notes))).all()


def test_a_clip_of_one_frame_is_shown_twice(tmp_path):
    (tmp_path / "0.jpg").write_bytes(jpeg(100, 60))
    still = describe(clip_from_folder(tmp_path, 8))
    assert _sent(still) == _sent(still, lossless=True) == read_frames(still) * 2


def test_the_student_gets_the_resized_picture_and_does_not_resize_it_again(tmp_path):
    image_processing = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl")
    from umer1_core.backbone.pixels import PixelReader

    class Processor:
        image_processor = image_processing.Qwen2VLImageProcessor(size={"shortest_edge": 784, "longest_edge": 2_359_296})

    reader = PixelReader(Processor())
    limited = _described(tmp_path, jpeg(400, 300), max_pixels=60_000)
    assert limited.notes == ("resize:280x196",)
    assert reader.read(limited).grid == (1, 196 // 14, 280 // 14)
    # Equal bytes under other rules are another picture, also for what is remembered.
    assert reader.read(_described(tmp_path, jpeg(400, 300))).grid == (1, 308 // 14, 392 // 14)
