"""Folders on this machine and elsewhere behave alike, and nothing outside them is reached."""

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from umer1_core.errors import BadInput, SourceError
from umer1_core.sampling.places import Place, expand, open_file, place


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path: Path) -> Iterator[Place]:
    """The files a.txt, b[1].txt and sub/c.txt."""
    root = str(tmp_path / "root") if request.param == "local" else "memory://bucket/root"
    for name in ("a.txt", "b[1].txt", "sub/c.txt"):
        with fsspec.open(f"{root}/{name}", "wb", auto_mkdir=True) as file:
            file.write(name.encode())
    yield place(root)
    if request.param == "memory":
        fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_names_files_and_folders_are_told_apart(folder):
    assert sorted(folder.names()) == [("a.txt", False), ("b[1].txt", False), ("sub", True)]
    assert folder.is_folder() and folder.sub("sub").is_folder() and not folder.sub("nowhere").is_folder()
    assert folder.exists("sub/c.txt") and not folder.exists("sub/d.txt")
    assert folder.sub("nowhere").names() == []


def test_what_is_joined_or_found_can_be_opened(folder):
    for uri in (folder.join("sub/c.txt"), folder.glob("*/c.txt")[0], folder.glob("sub/*")[0]):
        with open_file(uri) as file:
            assert file.read() == b"sub/c.txt"


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "..\\x", "sub/../../x", "file:///etc/passwd", "a\0b", ""])
def test_a_path_that_leaves_the_folder_is_refused(folder, path):
    with pytest.raises(BadInput) as error:
        folder.join(path)
    assert error.value.reason in ("path_outside_root", "bad_path")


def test_a_link_that_leads_out_is_refused_and_one_that_stays_is_not(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "in.txt").write_text("x")
    (tmp_path / "out.txt").write_text("y")
    os.symlink(root / "in.txt", root / "stays")
    os.symlink(tmp_path / "out.txt", root / "leaves")
    assert place(str(root)).exists("stays")
    with pytest.raises(BadInput, match="leaves"):
        place(str(root)).join("leaves")


@pytest.mark.parametrize("length", [300, 30_000])
def test_a_name_that_no_file_system_takes_is_refused(tmp_path, length):
    with pytest.raises(BadInput, match="is no path"):
        place(str(tmp_path)).exists("x" * length)


def test_a_folder_that_may_not_be_listed_stops_with_its_name(folder, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("access denied")

    monkeypatch.setattr("os.scandir", refuse)
    monkeypatch.setattr(fsspec.filesystem("memory").__class__, "ls", refuse)
    with pytest.raises(SourceError, match=r"root cannot be listed: access denied.*permissions"):
        folder.names()


def test_patterns_are_expanded_and_a_name_that_looks_like_one_is_found(folder):
    assert expand(f"{folder.uri}/*.txt", "own/x") == sorted([folder.join("a.txt"), folder.join("b[1].txt")])
    assert expand(f"{folder.uri}/b[1].txt", "own/x") == [folder.join("b[1].txt")]
    assert len(expand(f"{folder.uri}/s*/c.txt", "own/x")) == 1
    with pytest.raises(SourceError, match=r"own/x: there is no file .*\.csv"):
        expand(f"{folder.uri}/*.csv", "own/x")


def test_a_missing_driver_is_named_without_credentials():
    with pytest.raises(SourceError, match="driver") as error:
        place("nosuch://user:secret@host/x").is_folder()
    assert "secret" not in str(error.value)
