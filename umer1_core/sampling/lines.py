"""Files of JSON records, streamed: a record a line, or one list of any size.

A line that is no record is refused and the rest goes on. A list cannot be picked up behind a fault: it stops with its
place. Half a surrogate pair is refused in a line; in a list the parser writes `?` for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import ijson
import orjson

from umer1_core.errors import SourceError
from umer1_core.sampling.places import open_file
from umer1_core.sampling.rows import Refused, place_of

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PEEK, _BUFFER = 64, 1 << 18


def json_records(file: str, source: str) -> Iterator[tuple[int, dict[str, Any] | Refused]]:
    """The number and the record of each line, or of each item where the file is a list. Raises as `json_lines`."""
    with open_file(file) as stream:
        is_list = stream.read(_PEEK).removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"[")
    return _items(file, source) if is_list else json_lines(file, source)


def json_lines(file: str, source: str) -> Iterator[tuple[int, dict[str, Any] | Refused]]:
    """The number of each line that is not blank, and its record. Raises SourceError when the file breaks off."""
    with open_file(file) as lines:
        try:
            for number, line in enumerate(lines):
                line = line.removeprefix(_BYTE_ORDER_MARK) if number == 0 else line
                if line.strip():
                    yield number, _record(line, file, number, source)
        except (OSError, EOFError) as error:
            raise SourceError(f"{file} breaks off: {error}.", "Download the file again.") from error


def _items(file: str, source: str) -> Iterator[tuple[int, dict[str, Any] | Refused]]:
    number = -1
    with open_file(file) as stream:
        if stream.read(len(_BYTE_ORDER_MARK)) != _BYTE_ORDER_MARK:
            stream.seek(0)
        try:
            for number, item in enumerate(ijson.items(stream, "item", use_float=True, buf_size=_BUFFER)):
                yield number, _object(item, file, number, source, "item")
        except (ijson.JSONError, OSError, EOFError) as error:
            said = " ".join(str(error).split())[:160]
            raise SourceError(f"{file} breaks off after item {number}: {said}", "Download the file again.") from error


def _record(line: bytes, file: str, number: int, source: str) -> dict[str, Any] | Refused:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        reason = "bad_text" if _has_lone_surrogate(line) else "bad_record"
        detail = f"line {number + 1} of {file} is no JSON: {error}"
        return Refused(source, place_of(file, number), reason, detail)
    return _object(record, file, number, source, "line")


def _object(record: Any, file: str, number: int, source: str, what: str) -> dict[str, Any] | Refused:
    if isinstance(record, dict):
        return record
    detail = f"{what} {number + 1} of {file} is a JSON {type(record).__name__}, not an object"
    return Refused(source, place_of(file, number), "bad_record", detail)


def _has_lone_surrogate(line: bytes) -> bool:
    """Python's own parser takes half of a surrogate pair, which is no text that could be written."""
    try:
        json.dumps(json.loads(line), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False
