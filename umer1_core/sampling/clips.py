"""Clips that still lie in `chunk_N.tar.gz`: each archive is indexed once, each clip keeps its chosen frames."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from umer1_core.errors import BadInput, SourceError
from umer1_core.media import FRAME_SUFFIXES, choose_frames, natural_sort, tar_reader


@dataclass(frozen=True, slots=True)
class ArchivedClip:
    """A clip's archive, its chosen frames as member names, and where the first of them lies."""

    uri: str
    frames: tuple[str, ...]
    offset: int


def index_archives(folder: Path, count: int) -> dict[str, ArchivedClip]:
    """Every clip of every archive in `folder`, by video id. Raises SourceError for an archive that breaks off."""
    clips: dict[str, ArchivedClip] = {}
    for archive in natural_sort(p.name for p in folder.glob("chunk_*.tar*")):
        clips |= _index(str(folder / archive), count)
    return clips


def _index(uri: str, count: int) -> dict[str, ArchivedClip]:
    try:
        members = tar_reader(uri).members
    except BadInput as error:
        raise SourceError(f"{error.detail}.", "Download the archive again, or move it out of the folder.") from error
    frames: dict[str, list[str]] = defaultdict(list)
    for name in members:
        path = PurePosixPath(name)
        if path.suffix.lower() in FRAME_SUFFIXES:
            frames[path.parent.name].append(name)
    clips = {}
    for video, names in frames.items():
        chosen = tuple(choose_frames(natural_sort(names), count))
        clips[video] = ArchivedClip(uri, chosen, min(members[name][0] for name in chosen))
    return clips
