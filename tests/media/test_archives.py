"""Members of archives are read where they lie, by their range where that is possible, and never by an unsafe name."""

import io
import os
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import fsspec
import pytest

from tests.media.pictures import jpeg, movie, shade_jpeg
from umer1_core.errors import BadInput
from umer1_core.media import archive, describe, gzips, read_frames, read_image
from umer1_core.media.archives import _slot
from umer1_core.pairs import Media

_FILES = {f"a/{i}.jpg": shade_jpeg(10 * i) for i in range(20)} | {"b/ü.jpg": jpeg()}


def _tar(path, files=_FILES, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return str(path)


def _zip(path, files=_FILES, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
    return str(path)


_MAKE = {
    "x.tar": _tar,
    "x.tar.gz": lambda path, files=_FILES: _tar(path, files, "w:gz"),
    "x.tgz": lambda path, files=_FILES: _tar(path, files, "w:gz"),
    "x.zip": _zip,
    "deflated.zip": lambda path, files=_FILES: _zip(path, files, zipfile.ZIP_DEFLATED),
}
_BY_RANGE = {"x.tar", "x.zip"}


@pytest.mark.parametrize("form", _MAKE)
def test_every_member_is_found_and_read(tmp_path, form):
    opened = archive(_MAKE[form](tmp_path / form))
    assert opened.names() == list(_FILES)
    assert opened.read(list(_FILES)[::-1]) == list(_FILES.values())[::-1]
    for name, data in _FILES.items():
        found = opened.media(name)
        assert (found.size, found.offset >= 0) == (len(data), form in _BY_RANGE)
        assert read_image(found) == read_image(replace(found, offset=-1)) == data


@pytest.mark.parametrize("form", sorted(_BY_RANGE))
def test_a_member_with_an_offset_is_read_without_the_index(tmp_path, form):
    described = describe(archive(_MAKE[form](tmp_path / form)).media("b/ü.jpg"))
    read = _slot.cache_info()
    assert read_image(described) == _FILES["b/ü.jpg"] and _slot.cache_info() == read


def test_another_file_system_is_read_by_ranges(tmp_path):
    for form in _MAKE:
        uri = f"memory://archives/{form}"
        with fsspec.open(uri, "wb") as file:
            file.write(open(_MAKE[form](tmp_path / form), "rb").read())
        assert read_image(archive(uri).media("a/7.jpg")) == _FILES["a/7.jpg"]


def test_bytes_that_changed_since_they_were_sampled_are_refused(tmp_path):
    described = describe(archive(_tar(tmp_path / "x.tar")).media("a/3.jpg"))
    _tar(tmp_path / "x.tar", {"new.jpg": jpeg(), **_FILES})
    with pytest.raises(BadInput) as raised:
        read_image(described)
    assert raised.value.reason == "media_changed"


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "..\\x.jpg"])
@pytest.mark.parametrize("form", _MAKE)
def test_an_unsafe_name_is_refused_by_name_and_not_listed(tmp_path, form, name):
    opened = archive(_MAKE[form](tmp_path / form, {name: jpeg(), "ok.jpg": jpeg()}))
    assert opened.names() == ["ok.jpg"]
    for ask in (lambda: opened.media(name), lambda: opened.read([name])):
        with pytest.raises(BadInput) as raised:
            ask()
        assert raised.value.reason == "path_outside_root"


def test_links_and_devices_in_a_tar_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for kind, name in ((tarfile.SYMTYPE, "link.jpg"), (tarfile.LNKTYPE, "hard.jpg"), (tarfile.CHRTYPE, "dev.jpg")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/hostname"
            tar.addfile(member)
    assert archive(str(tmp_path / "x.tar")).names() == []


def test_of_members_of_one_name_the_last_counts(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in (("x.jpg", b"old"), ("y.jpg", b"y"), ("./x.jpg", b"newer")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    opened = archive(str(tmp_path / "x.tar"))
    assert opened.names() == ["y.jpg", "x.jpg"] and opened.read(["x.jpg"]) == [b"newer"]


@pytest.mark.parametrize("form", _MAKE)
def test_a_member_that_is_not_there_is_said_to_be_missing(tmp_path, form):
    with pytest.raises(BadInput, match=r"no member 'a/99\.jpg'") as raised:
        archive(_MAKE[form](tmp_path / form)).read(["a/99.jpg"])
    assert raised.value.reason == "media_missing"


@pytest.mark.parametrize("form", _MAKE)
def test_a_broken_archive_is_refused_with_its_place(tmp_path, form):
    path = tmp_path / form
    whole = open(_MAKE[form](path), "rb").read()
    for data in (whole[: len(whole) // 2], b"", b"no archive at all" * 100):
        path.unlink()
        path.write_bytes(data)
        _slot.cache_clear()
        with pytest.raises(BadInput, match=form) as raised:
            archive(str(path)).read(list(_FILES))
        assert raised.value.reason in ("archive_damaged", "media_missing")


def test_a_zip_with_other_bytes_than_its_checksum_is_damaged(tmp_path):
    data = bytearray(open(_zip(tmp_path / "x.zip"), "rb").read())
    data[60] ^= 0xFF
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(BadInput, match="checksum") as raised:
        archive(str(tmp_path / "x.zip")).read(["a/0.jpg"])
    assert raised.value.reason == "archive_damaged"


def test_a_zip_packed_by_a_rare_method_says_what_to_do(tmp_path):
    opened = archive(_zip(tmp_path / "x.zip", method=zipfile.ZIP_LZMA))
    with pytest.raises(BadInput, match="pack it again") as raised:
        read_image(opened.media("a/0.jpg"))
    assert raised.value.reason == "media_unreadable"


def test_a_video_file_inside_an_archive_is_a_clip(tmp_path):
    pytest.importorskip("decord")
    uri = _zip(tmp_path / "x.zip", {"c.mov": movie(list(_FILES.values())[:12])})
    described = describe(archive(uri).media("c.mov"))
    assert described.kind == "video" and len(described.frames) == 8 == len(read_frames(described))


def test_threads_that_open_one_archive_index_it_once(tmp_path):
    uri = _tar(tmp_path / "x.tar.gz", mode="w:gz")
    with ThreadPoolExecutor(8) as pool:
        opened = set(pool.map(lambda _: archive(uri), range(8)))
        clips = list(pool.map(lambda i: archive(uri).read([f"a/{i}.jpg", f"a/{i + 1}.jpg"]), range(19)))
    assert len(opened) == 1
    assert clips == [[_FILES[f"a/{i}.jpg"], _FILES[f"a/{i + 1}.jpg"]] for i in range(19)]


def _large(path):
    """Above what is small enough to be looked at again."""
    files = {f"{i:02d}.bin": os.urandom(1 << 20) for i in range(17)}
    return _tar(path, files, "w:gz" if path.suffix == ".gz" else "w"), files


@pytest.mark.parametrize("form", ["x.tar", "x.tar.gz"])
def test_the_index_of_a_large_archive_is_kept_for_later_processes(tmp_path, cache, monkeypatch, form):
    uri, files = _large(tmp_path / form)
    names = ["16.bin", "01.bin"]
    assert archive(uri).read(names) == [files[name] for name in names]
    assert {p.suffix for p in cache.iterdir()} <= {".members", ".points"} and any(cache.glob("*.members"))
    _slot.cache_clear()
    monkeypatch.setattr(tarfile, "open", None)  # no second pass
    assert archive(uri).read(names) == [files[name] for name in names]


def test_a_kept_index_that_is_damaged_is_made_again(tmp_path, cache):
    uri, files = _large(tmp_path / "x.tar.gz")
    archive(uri)
    for kept in cache.iterdir():
        kept.write_bytes(b"cut off")
    _slot.cache_clear()
    assert archive(uri).read(["09.bin"]) == [files["09.bin"]]


def test_a_cache_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    uri, files = _large(tmp_path / "x.tar")
    assert archive(uri).read(["00.bin"]) == [files["00.bin"]] and "not kept" in caplog.text


def test_without_indexed_gzip_the_same_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(gzips, "indexed_gzip", None)
    opened = archive(_tar(tmp_path / "x.tar.gz", mode="w:gz"))
    assert opened.read(["a/9.jpg", "a/2.jpg"]) == [_FILES["a/9.jpg"], _FILES["a/2.jpg"]]


def test_a_folder_or_nothing_in_place_of_an_archive_is_said(tmp_path):
    (tmp_path / "folder.tar").mkdir()
    for name in ("folder.tar", "none.zip"):
        with pytest.raises(BadInput, match=name) as raised:
            read_image(Media("image", str(tmp_path / name), member="x.jpg"))
        assert raised.value.reason == "media_missing"
