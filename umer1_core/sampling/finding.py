"""Media by their path under a folder: as files, or inside an archive that nobody unpacked.

An archive stands for the folder of its name: `images/OK-VQA.zip`, `images_zip/OK-VQA.zip` and `OK-VQA.tar` all hold
what belongs under `images/OK-VQA/`. Its members may repeat that path, or begin anywhere below it: as MMEB-train's
`images_zip/OK-VQA.zip` holds `OK-VQA/Train/….jpg`, which upstream unpacks into `images/`. A file that lies unpacked is
taken first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from os.path import commonpath
from pathlib import Path, PurePosixPath

from umer1_core.errors import BadInput, safe_url
from umer1_core.media import (
    ARCHIVE_SUFFIXES,
    FRAME_SUFFIXES,
    archive,
    choose_frames,
    clip_from_folder,
    clip_from_video,
    is_video_file,
    natural_sort,
)
from umer1_core.pairs import Media
from umer1_core.sampling.places import Place, exists

_GZIPPED = (".tar.gz", ".tgz")
_SHOWN = 8  # frames of a video file where it is not said how many


@dataclass(frozen=True)
class Finder:
    """Turns paths under `root` into Media.

    frames: chosen of a clip. spellings: the paths that one path in the data may stand for, the likeliest first.
    every_frame: a clip that is given by its frames keeps them all.
    """

    root: Place
    frames: int = 8
    spellings: Callable[[str], tuple[str, ...]] = lambda path: (path,)
    every_frame: bool = False

    def image(self, path: str) -> Media:
        """An image file or an archive's member. Raises BadInput where the path leaves the root."""
        return self._inside(path) or Media("image", self.root.join(self._plain(path)))

    def clip(self, path: str) -> Media:
        """A video file, a folder of frames, or such a folder inside an archive. Raises BadInput for anything else."""
        path = path.rstrip("/")
        for spelling in self.spellings(path):
            if is_video_file(spelling):
                if self.root.exists(spelling):
                    return video_file(self.root.join(spelling), self.frames)
            elif not self._archives and len(self.spellings(path)) == 1:
                return clip_in(self.root.sub(spelling), self.frames)
            elif (folder := self.root.sub(spelling)).is_folder():
                return clip_in(folder, self.frames)
        if clip := self._video_inside(path) if is_video_file(path) else self._clip_inside(path):
            return clip
        raise BadInput("media_missing", f"there is no video file and no folder of frames at {self._shown(path)}")

    def clip_of(self, paths: list[str]) -> Media:
        """A clip given by its frames' files, in order; evenly chosen ones where they are more than `frames`."""
        found = [self.image(path) for path in (paths if self.every_frame else choose_frames(paths, self.frames))]
        containers = {media.uri for media in found if media.member}
        if containers:
            if len(containers) > 1 or not all(media.member for media in found):
                raise BadInput("bad_field", f"the frames of {paths[0]} do not lie in one folder or archive")
            return Media("video", found[0].uri, frames=tuple(media.member for media in found))
        folder = commonpath([media.uri.rpartition("/")[0] for media in found])
        if "://" in found[0].uri:
            folder = found[0].uri.split("://")[0] + "://" + folder.partition(":/")[2].lstrip("/")
        return Media("video", folder, frames=tuple(media.uri.removeprefix(folder).lstrip("/") for media in found))

    def container(self, path: str) -> tuple[str, int]:
        """Where a path must be read in stored order: a compressed tar and the place in it; otherwise ("", 0)."""
        media = self._inside(path)
        if media is None or not media.uri.endswith(_GZIPPED):
            return "", 0
        return media.uri, archive(media.uri).members[media.member][0]

    @cached_property
    def _archives(self) -> dict[str, list[str]]:
        """Archives in the root and in the folders directly inside it, by the folder they stand for."""
        stems: dict[str, list[str]] = defaultdict(list)
        inside = [self.root, *(Place(f"{self.root.uri}/{name}") for name, is_folder in self.root.names() if is_folder)]
        for folder in inside:
            for name, _ in sorted(folder.names()):
                if suffix := next((s for s in ARCHIVE_SUFFIXES if name.endswith(s)), ""):
                    stems[name.removesuffix(suffix)].append(f"{folder.uri}/{name}")
        return dict(stems)

    def _plain(self, path: str) -> str:
        """The spelling of a path that is there; the first where none is."""
        spellings = self.spellings(path)
        if len(spellings) == 1:
            return path
        return next((s for s in spellings if self.root.exists(s)), spellings[0])

    def _inside(self, path: str) -> Media | None:
        """The member of an archive that a path stands for, where the path itself is not there."""
        for spelling in self.spellings(path) if self._archives else ():
            for uri, names in self._candidates(spelling):
                member = next((name for name in names if name in archive(uri).members), None)
                if member is not None:
                    return None if exists(self.root.join(spelling)) else archive(uri).media(member)
        return None

    def _video_inside(self, path: str) -> Media | None:
        media = self._inside(path)
        if media and self.frames != _SHOWN:
            raise BadInput(
                "video_in_archive", f"{media.where} lies in an archive; unpack it, or set `frames` to {_SHOWN}"
            )
        return media

    def _clip_inside(self, path: str) -> Media | None:
        for spelling in self.spellings(path) if self._archives else ():
            for uri, names in self._candidates(f"{spelling}/"):
                folders = _frames(uri)
                frames = next((folders[name] for name in names if name in folders), None)
                if frames:
                    return Media("video", uri, frames=tuple(choose_frames(natural_sort(frames), self.frames)))
        return None

    def _candidates(self, path: str) -> Iterator[tuple[str, list[str]]]:
        """Archives that a path may lie in, and the names it may have there, the fullest first."""
        parts = PurePosixPath(path).parts
        if path.startswith("/") or ".." in parts:
            return
        folders = len(parts) if path.endswith("/") else len(parts) - 1
        for depth in reversed(range(folders)):
            for uri in self._archives.get(parts[depth], ()):
                yield uri, ["/".join(parts[start:]) for start in range(depth + 2) if parts[start:]]

    def _shown(self, path: str) -> str:
        return safe_url(self.root.join(path))


@lru_cache(maxsize=64)
def _frames(uri: str) -> dict[str, list[str]]:
    """The pictures of an archive by folder."""
    frames: dict[str, list[str]] = defaultdict(list)
    for name in archive(uri).names():
        if is_frame(name):
            frames[name.rpartition("/")[0]].append(name)
    return dict(frames)


def is_frame(name: str) -> bool:
    """A picture by its name; hidden files are what other systems leave beside pictures (`._frame.jpg`)."""
    path = PurePosixPath(name)
    return path.suffix.lower() in FRAME_SUFFIXES and not path.name.startswith(".")


def clip_in(folder: Place, count: int) -> Media:
    """A clip whose frames are the pictures in a folder. Raises BadInput when there are none."""
    if folder.local:
        return clip_from_folder(Path(folder.uri), count)
    names = natural_sort(name for name, _ in folder.names() if is_frame(name))
    if not names:
        if not folder.is_folder():
            raise BadInput("media_missing", f"there is no folder of frames at {safe_url(folder.uri)}")
        raise BadInput("clip_without_frames", f"{safe_url(folder.uri)} holds no frames")
    return Media("video", folder.uri, frames=tuple(choose_frames(names, count)))


def video_file(uri: str, count: int) -> Media:
    """A clip that is a video file; `describe` fills in its eight frames, other counts are read here."""
    return Media("video", uri) if count == _SHOWN else clip_from_video(uri, count)
