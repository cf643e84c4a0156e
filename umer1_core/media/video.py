"""Video files: the chosen frames, decoded by decord and handed on as JPEG.

No file, however damaged, ends this process or holds it up: decoding happens in processes of its own
(umer1_core.media.decoder), which are used again, and replaced when a file ends one or takes longer than two minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, Any, cast

from umer1_core.errors import BadInput
from umer1_core.media import decoder
from umer1_core.media.decoder import receive, send
from umer1_core.media.files import read_file
from umer1_core.pairs import Media

COUNT = 8  # frames of a clip, where nothing else is said (section 4.1)
_PATIENCE_S = 120.0
_CONTAINERS = {b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"}


def clip_from_video(uri: str, count: int) -> Media:
    """A clip of a video file whose frames are `np.linspace(0, n-1, count, dtype=int)`, as their numbers."""
    return Media("video", uri, frames=decode_frames(read_file(uri), (), uri, count)[0])


def decode_frames(
    data: bytes, frames: Sequence[str], where: str, count: int = COUNT
) -> tuple[tuple[str, ...], list[bytes]]:
    """The frames of these numbers, or `count` of them where none are given: numbers and JPEG bytes. Safe in threads.

    Raises BadInput: `video_damaged`, `clip_without_frames` or `no_video_decoder`.
    """
    _check_whole(data, where)
    with _free:
        worker = _take()
        try:
            head, pictures = worker.ask({"frames": [int(name) for name in frames], "count": count}, data)
        except (EOFError, OSError, ValueError) as error:
            how = "takes the decoder longer than two minutes" if worker.late else "ends the decoder's process"
            worker.end()
            raise BadInput("video_damaged", f"{where} {how}") from error
        _idle.append(worker)
    if "reason" in head:
        raise BadInput(head["reason"], f"{where} {head['detail']}")
    return tuple(map(str, head["frames"])), pictures


def _check_whole(data: bytes, where: str) -> None:
    """MP4 and MOV say how long they are; decord shows grey frames for what a download left out."""
    if not data:
        raise BadInput("video_damaged", f"{where} is empty")
    place = 0
    while data[4:8] in _CONTAINERS and 0 <= place <= len(data) - 8:
        size = int.from_bytes(data[place : place + 4], "big")
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        if size < 8:  # 0: to the end of the file
            return
        place += size
        if place > len(data):
            raise BadInput("video_damaged", f"{where} is cut off: {len(data)} bytes of {place}; download it again")


class _Worker:
    """A decoder process. It ends by itself when this process does, since its pipe closes."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.late = False
        self._process = subprocess.Popen(
            [sys.executable, "-P", decoder.__file__],  # by its file: it needs nothing of umer1, and starts sooner
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # FFmpeg's remarks on every damaged block
        )

    def ask(self, question: dict[str, Any], data: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """Raises EOFError or OSError when the process ends, also when it takes too long and is ended."""
        clock = threading.Timer(_PATIENCE_S, self._stop)
        clock.start()
        try:
            send(cast(IO[bytes], self._process.stdin), question, [data])
            return receive(cast(IO[bytes], self._process.stdout))
        finally:
            clock.cancel()

    def _stop(self) -> None:
        self.late = True
        self._process.kill()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


_free = threading.BoundedSemaphore(max(1, min(8, os.cpu_count() or 1)))
_idle: list[_Worker] = []


def _take() -> _Worker:
    while True:
        try:
            worker = _idle.pop()
        except IndexError:
            return _Worker()
        if worker.owner == os.getpid():  # a forked process must not speak into its parent's pipes
            return worker
