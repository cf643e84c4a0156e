"""Media are read where they lie, byte for byte, and a damaged one is named with its reason."""

import base64
import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from umer1_core import media
from umer1_core.errors import BadInput
from umer1_core.pairs import Media


def jpeg(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (40, 24)) -> bytes:
    noise = np.random.default_rng(sum(colour)).integers(0, 40, (size[1], size[0], 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray((np.array(colour, dtype=np.uint8) // 2 + noise).astype(np.uint8)).save(sink, "JPEG")
    return sink.getvalue()


def test_an_image_is_described_and_travels_as_the_bytes_it_is(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    described = media.describe(Media("image", str(tmp_path / "a.jpg")))
    assert (described.width, described.height, described.size) == (40, 24, len(jpeg()))
    kind, _, payload = media.data_url(described).decode().partition(";base64,")
    assert kind == "data:image/jpeg" and base64.b64decode(payload) == jpeg()


def test_equal_bytes_have_equal_hashes_in_a_file_a_tar_and_a_parquet_cell(tmp_path):
    data = jpeg()
    (tmp_path / "a.jpg").write_bytes(data)
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "a.jpg", "x/a.jpg")
    cells = pa.table({"image": [{"bytes": jpeg((9, 9, 9)), "path": "0"}, {"bytes": data, "path": "1"}]})
    pq.write_table(cells, tmp_path / "p.parquet", row_group_size=1)
    places = [
        Media("image", str(tmp_path / "a.jpg")),
        Media("image", str(tmp_path / "t.tar.gz"), member="x/a.jpg"),
        Media("image", str(tmp_path / "p.parquet"), member="image#1"),
    ]
    assert len({media.describe(place).content_hash for place in places}) == 1


def test_a_clip_takes_evenly_spaced_frames_in_natural_order(tmp_path):
    for i in range(1, 13):
        (tmp_path / f"f_{i}.jpeg").write_bytes(jpeg((i * 10, 0, 0)))
    clip = media.clip_from_folder(tmp_path, 8)
    assert clip.frames == tuple(f"f_{i + 1}.jpeg" for i in np.linspace(0, 11, 8, dtype=int))
    assert media.read_frames(clip)[-1] == (tmp_path / "f_12.jpeg").read_bytes()
    assert media.data_url(media.describe(clip)).count(b",") == 8


def test_a_short_clip_is_used_as_it_is(tmp_path):
    (tmp_path / "1.jpg").write_bytes(jpeg())
    assert media.clip_from_folder(tmp_path, 8).frames == ("1.jpg",)


def test_frames_inside_a_gzipped_tar_equal_those_in_a_folder(tmp_path):
    names = [f"f{i}.jpg" for i in range(4)]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(jpeg((i * 50, 0, 0)))
    with tarfile.open(tmp_path / "chunk_0.tar.gz", "w:gz") as tar:
        for name in reversed(names):
            tar.add(tmp_path / name, f"clip/{name}")
    inside = Media("video", str(tmp_path / "chunk_0.tar.gz"), frames=tuple(f"clip/{n}" for n in names))
    folder = Media("video", str(tmp_path), frames=tuple(names))
    assert media.describe(inside).content_hash == media.describe(folder).content_hash


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: p.write_bytes(jpeg()[:300]), "image_damaged"),
        (lambda p: p.write_bytes(b"this is no picture"), "image_damaged"),
        (lambda p: p.write_bytes(b""), "image_damaged"),
        (lambda p: None, "media_missing"),
        (lambda p: p.mkdir(), "media_missing"),
    ],
)
def test_a_damaged_image_is_refused_with_its_reason_and_place(tmp_path, make, reason):
    path = tmp_path / "x.jpg"
    make(path)
    with pytest.raises(BadInput, match=r"x\.jpg") as raised:
        media.describe(Media("image", str(path)))
    assert raised.value.reason == reason


def test_a_jpeg_with_bytes_after_its_end_is_still_an_image(tmp_path):
    (tmp_path / "x.jpg").write_bytes(jpeg() + b"\0\0trailing")
    assert media.describe(Media("image", str(tmp_path / "x.jpg"))).width == 40


def test_a_folder_without_frames_is_refused(tmp_path):
    with pytest.raises(BadInput) as raised:
        media.clip_from_folder(tmp_path, 8)
    assert raised.value.reason == "clip_without_frames"


def test_a_clip_of_one_frame_is_sent_as_a_still_shown_twice(tmp_path):
    (tmp_path / "1.jpg").write_bytes(jpeg())
    url = media.data_url(media.clip_from_folder(tmp_path, 8)).decode()
    first, second = url.removeprefix("data:video/jpeg;base64,").split(",")
    assert first == second
