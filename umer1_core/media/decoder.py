"""A process of its own that decodes video files: a damaged one can end decord's process, and must not end umer1's.

`umer1_core.media.video` runs this file and speaks to it over pipes: messages of a JSON head and byte strings, one
answer to each question, until the pipe closes.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from PIL import Image

_QUALITY = 90
_LENGTHS = struct.Struct("<II")  # of the head, and how many byte strings follow it
_LENGTH = struct.Struct("<Q")


def send(pipe: IO[bytes], head: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
    """Write a message."""
    text = json.dumps(head).encode()
    pipe.write(_LENGTHS.pack(len(text), len(parts)) + text)
    for part in parts:
        pipe.write(_LENGTH.pack(len(part)))
        pipe.write(part)
    pipe.flush()


def receive(pipe: IO[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """Read a message. Raises EOFError when the other side is gone."""
    length, count = _LENGTHS.unpack(_exactly(pipe, _LENGTHS.size))
    head = json.loads(_exactly(pipe, length))
    return head, [_exactly(pipe, _LENGTH.unpack(_exactly(pipe, _LENGTH.size))[0]) for _ in range(count)]


def pick(total: int, count: int) -> list[int]:
    """`np.linspace(0, total-1, count, dtype=int)` as numbers of frames, or all where there are fewer."""
    return list(range(total)) if total <= count else [int(i) for i in np.linspace(0, total - 1, count, dtype=int)]


def main() -> None:
    """Answer until the pipe closes. The real standard output is for answers alone: FFmpeg writes where it likes."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    while True:
        try:
            question, (data,) = receive(sys.stdin.buffer)
        except EOFError:
            return
        send(answers, *_answer(data, question["frames"], question["count"]))


def _answer(data: bytes, frames: list[int], count: int) -> tuple[dict[str, Any], list[bytes]]:
    try:
        from decord import VideoReader
    except ImportError:
        return {"reason": "no_video_decoder", "detail": "needs decord, which this platform lacks; unpack it"}, []
    try:
        reader = VideoReader(io.BytesIO(data), num_threads=1)
        picks = frames or pick(len(reader), count)
        if not picks:
            return {"reason": "clip_without_frames", "detail": "holds no frames"}, []
        pictures = reader.get_batch(picks).asnumpy()
    except (RuntimeError, IndexError, ValueError, TypeError, MemoryError) as error:
        return {"reason": "video_damaged", "detail": f"does not decode: {_first_line(error)}"}, []
    return {"frames": picks}, [_jpeg(picture) for picture in pictures]


def _first_line(error: Exception) -> str:
    """decord puts its own stack trace behind what happened."""
    lines = [line.split("] ")[-1] for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__


def _jpeg(frame: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(frame).save(sink, "JPEG", quality=_QUALITY)
    return sink.getvalue()


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError("the other side closed the pipe")
    return data


if __name__ == "__main__":
    main()
