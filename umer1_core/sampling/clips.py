"""Clips that lie in `chunk_N.tar` or `chunk_N.tar.gz`: an archive is indexed once, a clip keeps its chosen frames."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import PurePosixPath

from umer1_core.errors import BadInput, SourceError
from umer1_core.media import archive, choose_frames, natural_sort
from umer1_core.sampling.finding import is_frame
from umer1_core.sampling.places import Place


@dataclass(frozen=True, slots=True)
class ArchivedClip:
    """A clip's archive, its chosen frames as member names, and where among the members the first of them stands."""

    uri: str
    frames: tuple[str, ...]
    position: int


def index_archives(folder: Place, count: int) -> dict[str, ArchivedClip]:
    """Every clip of every archive in `folder`, by video id. Raises SourceError for an archive that breaks off."""
    clips: dict[str, ArchivedClip] = {}
    for name in natural_sort(name for name, is_folder in folder.names() if not is_folder and _is_chunk(name)):
        clips |= _index(f"{folder.uri}/{name}", count)
    return clips


def _is_chunk(name: str) -> bool:
    return name.startswith("chunk_") and name.endswith((".tar", ".tar.gz", ".tgz"))


def _index(uri: str, count: int) -> dict[str, ArchivedClip]:
    try:
        names = archive(uri).names()
    except BadInput as error:
        raise SourceError(f"{error.detail}.", "Download the archive again, or move it out of the folder.") from error
    frames: dict[str, list[str]] = defaultdict(list)
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        if is_frame(name):
            video = PurePosixPath(name).parent.name
            frames[video].append(name)
            first.setdefault(video, position)
    return {
        video: ArchivedClip(uri, tuple(choose_frames(natural_sort(names), count)), first[video])
        for video, names in frames.items()
    }
