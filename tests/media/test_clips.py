"""Clips of frames: every frame is checked, and the one that is damaged is named."""

import tarfile
import zipfile

import pytest

from tests.media.pictures import jpeg, turned_jpeg
from umer1_core.errors import BadInput
from umer1_core.media import clip_from_folder, describe, read_frames
from umer1_core.pairs import Media


def _folder(tmp_path, frames):
    for i, data in enumerate(frames):
        (tmp_path / f"f{i}.jpg").write_bytes(data)
    return clip_from_folder(tmp_path, 8)


def test_a_damaged_frame_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"frame f1\.jpg of") as raised:
        describe(_folder(tmp_path, [jpeg(), jpeg()[:50], jpeg()]))
    assert raised.value.reason == "frame_damaged"


def test_frames_of_different_sizes_are_no_clip(tmp_path):
    with pytest.raises(BadInput, match=r"f0\.jpg is 40 x 24, f1\.jpg is 41 x 24") as raised:
        describe(_folder(tmp_path, [jpeg(), jpeg(41, 24)]))
    assert raised.value.reason == "frames_differ"


def test_notes_of_a_clip_are_those_of_its_frames(tmp_path):
    described = describe(_folder(tmp_path, [turned_jpeg(6)] * 2))
    assert described.notes == ("orientation:6",) and (described.width, described.height) == (24, 40)


def test_a_frame_that_is_missing_is_said_to_be(tmp_path):
    clip = _folder(tmp_path, [jpeg(), jpeg()])
    (tmp_path / "f1.jpg").unlink()
    with pytest.raises(BadInput, match=r"f1\.jpg") as raised:
        describe(clip)
    assert raised.value.reason == "media_missing"


def test_a_clip_that_names_no_frames_is_refused(tmp_path):
    with pytest.raises(BadInput) as raised:
        describe(Media("video", str(tmp_path)))
    assert raised.value.reason == "clip_without_frames"


def test_frames_outside_the_folder_are_refused(tmp_path):
    (tmp_path / "clip").mkdir()
    (tmp_path / "x.jpg").write_bytes(jpeg())
    with pytest.raises(BadInput) as raised:
        read_frames(Media("video", str(tmp_path / "clip"), frames=("../x.jpg",)))
    assert raised.value.reason == "path_outside_root"


def test_hidden_files_beside_frames_are_none(tmp_path):
    (tmp_path / "._f0.jpg").write_bytes(b"what macOS leaves")
    assert _folder(tmp_path, [jpeg()]).frames == ("f0.jpg",)


def test_a_clip_is_the_same_in_a_folder_a_tar_and_a_zip(tmp_path):
    clip = _folder(tmp_path, [jpeg(), turned_jpeg(3)])
    with tarfile.open(tmp_path / "c.tar", "w") as tar, zipfile.ZipFile(tmp_path / "c.zip", "w") as zipped:
        for name in clip.frames:
            tar.add(tmp_path / name, name)
            zipped.write(tmp_path / name, name)
    hashes = {
        describe(Media("video", str(place), frames=clip.frames)).content_hash
        for place in (tmp_path, tmp_path / "c.tar", tmp_path / "c.zip")
    }
    assert len(hashes) == 1
