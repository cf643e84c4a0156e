"""Own pairs: JSON lines, Parquet and CSV (README, "Your own data").

JSON lines: `{"id", "query": {"text", "image", "video"}, "target": {…}, "negatives": [{…}]}` with only the fields that
are present. An image is a path or a list of paths; a video is a video file, a folder of frames, or a list of frame
files. Parquet has the same as nested columns, or, like CSV, the flat columns of `schemas.sources.Columns`; there an
image may also be a cell of bytes. A row without an id is identified by its content.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from schemas.sources import Columns, DatasetSource, OwnSource
from umer1_core.errors import BadInput, SourceError, safe_url
from umer1_core.pairs import Media
from umer1_core.sampling.fields import Reading, container, locate, modality_of, read_side
from umer1_core.sampling.finding import Finder
from umer1_core.sampling.lines import json_records
from umer1_core.sampling.mapped import mapped_rows, nested
from umer1_core.sampling.parquet import open_parquet, parquet_rows
from umer1_core.sampling.places import expand, folder_of, open_file, place
from umer1_core.sampling.rows import RawRow, RawSide, Refused, SourceSpec, checked, place_of

_ROW_FIELDS = ("id", "query", "target", "negatives")
_SIDE_FIELDS = ("text", "image", "video")
_FLAT_FIELDS = tuple(Columns.model_fields)
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv")


def list_own(config: OwnSource) -> list[SourceSpec]:
    """One unit. Raises SourceError for files that are not there or of no known form."""
    name = f"own/{config.name}"
    for file in _files(config):
        if not _suffix(file):
            raise SourceError(
                f"{name}: {safe_url(file)} is of no known form.", f"Give files that end in {', '.join(_SUFFIXES)}."
            )
    return [SourceSpec(name, modality_of(config.modality), config, config.limit)]


@dataclass(frozen=True)
class Own:
    """The rows of all files."""

    config: OwnSource

    def rows(self) -> Iterator[RawRow | Refused]:
        for file in self.files():
            for number, record in _records(file, self._source):
                if isinstance(record, Refused):
                    yield record
                    continue
                try:
                    base = "" if self.config.root else folder_of(file).uri
                    yield read_row(record, self._source, file, number, self.config, base)
                except BadInput as error:
                    yield Refused(self._source, place_of(file, number), error.reason, error.detail)

    def files(self) -> Sequence[str]:
        return _files(self.config)

    def place(self, reference: str) -> tuple[str, int]:
        return container(reference, self._finder) if reference else ("", 0)

    def locate(self, reference: str) -> tuple[Media, ...]:
        return locate(reference, self._finder)

    @property
    def _source(self) -> str:
        return f"own/{self.config.name}"

    @cached_property
    def _finder(self) -> Finder:
        return Finder(place(self.config.root or "."), self.config.frames)


def read_row(
    record: dict[str, Any], source: str, file: str, number: int, config: OwnSource | DatasetSource, base: str = ""
) -> RawRow | Refused:
    """A row in the nested form. Raises BadInput for a field that is not right.

    base: what its media paths are relative to, where that is not the layout's own root.
    """
    where = f"row {number} of {file}"
    _check_fields(record, _ROW_FIELDS, where)
    query = _side(record.get("query"), "query", where, config.query_instruction, base)
    target = _side(record.get("target"), "target", where, config.target_instruction, base)
    key = _key(record.get("id"), query, target, where)
    modality = modality_of(config.modality, query, target)
    negatives = tuple(_negatives(record.get("negatives"), where, config.target_instruction, base))
    return checked(RawRow(source, key, file, number, query.side, target.side, negatives, modality))


def _side(value: Any, name: str, where: str, instruction: str, base: str) -> Reading:
    if value is None:
        value = {}
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise BadInput("bad_field", f"{name} of {where} is {kind}; expected an object with {_listed(_SIDE_FIELDS)}")
    _check_fields(value, _SIDE_FIELDS, f"{name} of {where}")
    return read_side(value, name, where, instruction, base)


def _negatives(value: Any, where: str, instruction: str, base: str) -> Iterator[RawSide]:
    if value is not None and not isinstance(value, list):
        raise BadInput("bad_field", f"negatives of {where} is {type(value).__name__}; expected a list of objects")
    for number, item in enumerate(value or ()):
        reading = _side(item, f"negatives[{number}]", where, instruction, base)
        if not reading.empty:
            yield reading.side


def _key(identifier: Any, query: Reading, target: Reading, where: str) -> str:
    if identifier is None or identifier == "":
        return f"\x1f{query.key}\x1f{target.key}"
    if not isinstance(identifier, str | int):
        raise BadInput("bad_field", f"id of {where} is {type(identifier).__name__}; expected text or a number")
    return str(identifier)


def _check_fields(record: dict[str, Any], known: Iterable[str], where: str) -> None:
    """Raises BadInput for a field whose name is nearly a known one: an unknown field would be lost without a word."""
    for name in record:
        if meant := _meant(name, known):
            raise BadInput("bad_field", f"{where} has the field {name!r}; {meant!r} is meant, it seems")


def _meant(name: str, known: Iterable[str]) -> str:
    """The known name that an unknown one resembles; empty where it is known, or like none."""
    if name in known:
        return ""
    return next(iter(difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.75)), "")


# -- the files -------------------------------------------------------------------------------------------------------


def _files(config: OwnSource) -> list[str]:
    return list(dict.fromkeys(file for pattern in config.files for file in expand(pattern, f"own/{config.name}")))


def _suffix(file: str) -> str:
    return next((suffix for suffix in _SUFFIXES if file.removesuffix(".gz").endswith(suffix)), "")


def _records(file: str, source: str) -> Iterator[tuple[int, dict[str, Any] | Refused]]:
    """Rows in the nested form. Raises SourceError when the file does not have the columns of pairs."""
    if _suffix(file) == ".parquet":
        yield from _parquet(file)
    elif _suffix(file) == ".csv":
        yield from _csv(file, source)
    else:
        first = True
        for number, record in json_records(file, source):
            if first and isinstance(record, dict):
                _require(file, list(record), _ROW_FIELDS, "fields")
                first = False
            yield number, record


def _parquet(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    names = open_parquet(file).schema_arrow.names
    if {"query", "target"} & set(names):
        _require(file, names, _ROW_FIELDS, "columns")
        yield from enumerate(parquet_rows(file, [name for name in _ROW_FIELDS if name in names]))
    else:
        _require(file, names, _FLAT_FIELDS, "columns")
        columns = Columns(**{name: name for name in _FLAT_FIELDS if name in names})
        yield from enumerate(mapped_rows(file, columns))


def _csv(file: str, source: str) -> Iterator[tuple[int, dict[str, Any] | Refused]]:
    with open_file(file) as stream:
        lines = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", newline=""))
        number = -1
        try:
            header = next(lines, [])
            _require(file, header, _FLAT_FIELDS, "columns")
            for number, cells in enumerate(lines):
                if len(cells) == len(header):
                    flat = {name: cell for name, cell in zip(header, cells, strict=True) if name in _FLAT_FIELDS}
                    yield number, nested(flat)
                elif cells:
                    detail = f"row {number} of {file} has {len(cells)} cells, the header has {len(header)}"
                    yield number, Refused(source, place_of(file, number), "bad_record", detail)
        except (UnicodeDecodeError, csv.Error, OSError, EOFError) as error:
            raise SourceError(
                f"{file} cannot be read as CSV after row {number}: {error}.", "Save it as CSV in UTF-8."
            ) from error


def _require(file: str, names: list[str], known: tuple[str, ...], what: str) -> None:
    """The file has a query and a target, and no name that is nearly a known one."""
    for name in names:
        if meant := _meant(name, known):
            raise SourceError(f"{file} has the {what[:-1]} `{name}`.", f"Did you mean `{meant}`?")
    if not all(any(name.startswith(side) for name in names if name in known) for side in ("query", "target")):
        raise SourceError(
            f"{file} has no query or no target (its {what}: {', '.join(names) or 'none'}).",
            f"The known {what} are {_listed(known)}.",
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
