"""Video files: the frames upstream would take, and a damaged file costs a rejection, never the process."""

import random
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.media.pictures import movie, shade_jpeg
from umer1_core.errors import BadInput
from umer1_core.media import clip_from_video, decoder, describe, open_image, read_frames, video
from umer1_core.media.video import decode_frames
from umer1_core.pairs import Media

pytest.importorskip("decord")

_FRAMES = [shade_jpeg(20 + 4 * i) for i in range(50)]


def _numbers(frames: list[bytes]) -> list[int]:
    """Which frames these are, by their grey."""
    return [round((np.array(open_image(frame)).mean() - 20) / 4) for frame in frames]


@pytest.mark.parametrize("total", [1, 3, 8, 9, 10, 37, 50])
def test_eight_frames_are_chosen_as_upstream_does(total):
    numbers, frames = decode_frames(movie(_FRAMES[:total]), (), "x")
    wanted = [int(i) for i in np.linspace(0, total - 1, 8, dtype=int)] if total > 8 else list(range(total))
    assert _numbers(frames) == wanted == [int(number) for number in numbers]


def test_frames_are_counted_and_not_timed_at_a_variable_rate():
    durations = [1] * 25 + [9] * 25
    assert _numbers(decode_frames(movie(_FRAMES, durations), (), "x")[1]) == [0, 7, 14, 21, 28, 35, 42, 49]


def test_a_video_is_described_with_the_frames_it_shows(tmp_path):
    (tmp_path / "x.mov").write_bytes(movie(_FRAMES))
    described = describe(Media("video", str(tmp_path / "x.mov")))
    assert (described.width, described.height, described.notes) == (32, 32, ())
    assert described.frames == ("0", "7", "14", "21", "28", "35", "42", "49")
    assert _numbers(read_frames(described)) == [0, 7, 14, 21, 28, 35, 42, 49]


def test_more_frames_than_eight_are_noted_since_the_bytes_are_the_same(tmp_path):
    (tmp_path / "x.mov").write_bytes(movie(_FRAMES))
    described = describe(clip_from_video(str(tmp_path / "x.mov"), 16))
    assert described.notes == ("frames:16",)
    assert _numbers(read_frames(described)) == [int(i) for i in np.linspace(0, 49, 16, dtype=int)]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is empty"),
        (b"no film" * 100, "does not decode"),
        (movie(_FRAMES)[:5_000], "is cut off"),
        (movie(_FRAMES)[:-200], "is cut off"),
        (movie([b"\0\1" * 50] * 9, handler=b"soun"), ""),  # sound alone
        (movie([]), ""),
    ],
)
def test_a_damaged_video_is_refused_with_its_place(tmp_path, data, text):
    (tmp_path / "x.mov").write_bytes(data)
    with pytest.raises(BadInput, match=r"x\.mov") as raised:
        describe(Media("video", str(tmp_path / "x.mov")))
    assert raised.value.reason in ("video_damaged", "clip_without_frames") and text in raised.value.detail


def test_no_damaged_file_ends_the_process_and_the_next_good_one_is_read():
    whole, rng = movie(_FRAMES), random.Random(0)
    header = whole.rindex(b"moov")
    for _ in range(25):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 4, 16])):
            data[rng.randrange(header, len(data))] = rng.randrange(256)
        try:
            assert decode_frames(bytes(data), (), "x")[1]
        except BadInput as refused:
            assert refused.reason in ("video_damaged", "clip_without_frames")
    assert _numbers(decode_frames(whole, (), "x")[1])[-1] == 49


def test_videos_are_read_in_parallel_without_mixing_them_up():
    films = [movie(_FRAMES[i : i + 9]) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        first = [_numbers(frames)[0] for _, frames in pool.map(lambda film: decode_frames(film, (), "x"), films)]
    assert first == list(range(16))


def test_a_video_that_keeps_the_decoder_busy_is_given_up(monkeypatch):
    monkeypatch.setattr(video, "_PATIENCE_S", 0.001)
    with pytest.raises(BadInput, match="longer than") as raised:
        decode_frames(movie(_FRAMES), (), "x")
    assert raised.value.reason == "video_damaged"
    monkeypatch.undo()
    assert len(decode_frames(movie(_FRAMES), (), "x")[1]) == 8


def test_where_decord_is_missing_a_video_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    head, frames = decoder._answer(movie(_FRAMES), [], 8)
    assert head["reason"] == "no_video_decoder" and not frames
