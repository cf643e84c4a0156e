"""Archives read where they lie: nothing is unpacked to disk, no name or link in them is followed.

A member whose bytes lie in the archive as they are (tar; zip, stored) is described with its offset and then read by one
ranged read, without the index. The index of an archive of 16 MiB or more is kept (umer1_core.media.kept), since finding
the members of a tar needs a pass over it. Members whose name would leave the archive's folder are refused by name;
links, devices and sparse files are not listed.
"""

from __future__ import annotations

import os
import struct
import tarfile
import threading
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import pyarrow as pa
from pyarrow import ipc

from umer1_core.errors import BadInput
from umer1_core.media.files import open_file, read_range, short
from umer1_core.media.gzips import GZIP_ERRORS, keep_points, open_gzip
from umer1_core.media.kept import keep, place_for
from umer1_core.media.members import SCHEMA, Member, Members, Row, table_of
from umer1_core.media.paths import check_member, is_video_file
from umer1_core.pairs import Media, MediaKind

_KEPT_OPEN = 32
_READ_THROUGH = 4 << 20  # bytes; over a smaller gap, reading on is cheaper than a seek inside gzip
_LOCAL_HEADER = struct.Struct(
    "<4s5H3I2H"
)  # of a zip's member; the last two are the lengths of its name and extra field
_ENCRYPTED = -1

# What a damaged archive raises.
_BROKEN: tuple[type[Exception], ...] = (
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,
    struct.error,
    *GZIP_ERRORS,
)


class Archive(ABC):
    """Members of one archive, by name. Safe in several threads."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.members = Members(_index(uri, self._scan))

    def names(self) -> list[str]:
        """All files in it, in stored order."""
        return list(self.members)

    def media(self, name: str) -> Media:
        """A picture in it, not yet described. Raises BadInput when it is not there or its name is unsafe."""
        member = self._find(name)
        kind: MediaKind = "video" if is_video_file(name) else "image"
        return Media(kind, self.uri, member.name, self._offset(member), size=member.size)

    def read(self, names: Sequence[str]) -> list[bytes]:
        """The members' bytes. Raises BadInput when one is not there, or the archive is damaged."""
        members = {name: self._find(name) for name in names}
        try:
            data = self._read(sorted(members.values(), key=lambda member: member.position))
        except _BROKEN as error:
            raise BadInput("archive_damaged", f"{self.uri} breaks off: {short(error)}") from error
        return [data[members[name].name] for name in names]

    def _find(self, name: str) -> Member:
        check_member(name, self.uri)
        try:
            return self.members.find(name.removeprefix("./"))
        except KeyError:
            raise BadInput("media_missing", f"{self.uri} has no member {name!r}") from None

    @abstractmethod
    def _scan(self) -> Iterator[Row]:
        """All members, in stored order."""

    @abstractmethod
    def _offset(self, member: Member) -> int:
        """Where its bytes start in the archive as they are, or -1."""

    @abstractmethod
    def _read(self, members: list[Member]) -> dict[str, bytes]:
        """Bytes by name, of members in stored order."""


class _Tar(Archive):
    def _scan(self) -> Iterator[Row]:
        with open_file(self.uri) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield from _tar_rows(tar, self.uri)

    def _offset(self, member: Member) -> int:
        return member.position

    def _read(self, members: list[Member]) -> dict[str, bytes]:
        return {member.name: read_range(self.uri, member.position, member.size) for member in members}


class _GzipTar(Archive):
    """One stream with a lock: readers must not move each other's place."""

    def __init__(self, uri: str) -> None:
        self._lock = threading.Lock()
        self._stream = open_gzip(uri)
        super().__init__(uri)
        keep_points(uri, self._stream)

    def _scan(self) -> Iterator[Row]:
        # Read as a stream: stepping over members would unpack from the last seek point at every step.
        with tarfile.open(fileobj=self._stream, mode="r|", bufsize=1 << 20) as tar:
            yield from _tar_rows(tar, self.uri)

    def _offset(self, member: Member) -> int:
        return -1

    def _read(self, members: list[Member]) -> dict[str, bytes]:
        data: dict[str, bytes] = {}
        with self._lock:
            place = -1
            for member in members:
                gap = member.position - place
                if place >= 0 and 0 <= gap < _READ_THROUGH:
                    self._stream.read(gap)
                else:
                    self._stream.seek(member.position)
                data[member.name] = self._stream.read(member.size)
                place = member.position + member.size
                if len(data[member.name]) < member.size:
                    raise EOFError("unexpected end of data")
        return data


class _Zip(Archive):
    def _scan(self) -> Iterator[Row]:
        with open_file(self.uri) as file, zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if not info.is_dir() and _safe(info.filename, self.uri):
                    method = _ENCRYPTED if info.flag_bits & 1 else info.compress_type
                    yield info.filename, info.header_offset, info.file_size, info.compress_size, method, info.CRC

    def _offset(self, member: Member) -> int:
        return self._start(member) if member.method == zipfile.ZIP_STORED else -1

    def _start(self, member: Member) -> int:
        header = _LOCAL_HEADER.unpack(read_range(self.uri, member.position, _LOCAL_HEADER.size))
        if header[0] != b"PK\x03\x04":
            raise BadInput("archive_damaged", f"{self.uri} has no member where its index says {member.name!r} is")
        return member.position + _LOCAL_HEADER.size + int(header[-2]) + int(header[-1])

    def _read(self, members: list[Member]) -> dict[str, bytes]:
        return {member.name: self._unpacked(member) for member in members}

    def _unpacked(self, member: Member) -> bytes:
        if member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            how = "is encrypted" if member.method == _ENCRYPTED else f"is compressed by method {member.method}"
            raise BadInput("media_unreadable", f"{member.name!r} of {self.uri} {how}; pack it again with deflate")
        data = read_range(self.uri, self._start(member), member.packed)
        if member.method == zipfile.ZIP_DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size + 1)
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise EOFError(f"the bytes of {member.name!r} do not match their checksum")
        return data


def archive(uri: str) -> Archive:
    """The archive at a URI, opened once in a process and kept open, whichever thread asks first.

    Raises BadInput: `media_missing`, `media_unreadable`, or `archive_damaged` (not looked at again in this process).
    """
    with _guard:
        slot = _slot(uri, os.getpid())  # a forked process must not share a stream's place with its parent
    with slot.lock:
        if slot.problem is not None:
            raise slot.problem
        if slot.archive is None:
            try:
                slot.archive = _open(uri)
            except BadInput as error:
                slot.problem = error if error.reason == "archive_damaged" else None
                raise
        return slot.archive


def tar_reader(uri: str) -> Archive:
    """`archive`, by its former name."""
    return archive(uri)


@dataclass
class _Slot:
    lock: threading.Lock = field(default_factory=threading.Lock)
    archive: Archive | None = None
    problem: BadInput | None = None


_guard = threading.Lock()


@lru_cache(maxsize=_KEPT_OPEN)
def _slot(uri: str, process: int) -> _Slot:
    return _Slot()


def _open(uri: str) -> Archive:
    with open_file(uri) as file:
        start = file.read(4)
    try:
        if uri.lower().endswith(".zip") or start == b"PK\x03\x04":
            return _Zip(uri)
        return _GzipTar(uri) if start[:2] == b"\x1f\x8b" else _Tar(uri)
    except _BROKEN as error:
        raise BadInput("archive_damaged", f"{uri} cannot be read as an archive: {short(error)}") from error


def _index(uri: str, scan: Callable[[], Iterator[Row]]) -> pa.Table:
    place = place_for(uri, ".members")
    if place is not None and place.exists():
        try:
            with pa.memory_map(str(place)) as file:
                table = ipc.open_file(file).read_all()
            if table.schema.equals(SCHEMA):
                return table
        except (pa.ArrowException, OSError):  # cut off: it is made again
            place.unlink(missing_ok=True)
    table = table_of(scan())
    if place is not None:
        keep(place, lambda path: _write(table, path))
    return table


def _write(table: pa.Table, path: str) -> None:
    with pa.OSFile(path, "wb") as file, ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _tar_rows(tar: tarfile.TarFile, uri: str) -> Iterator[Row]:
    while (member := tar.next()) is not None:
        name = member.name.removeprefix("./")
        if member.isfile() and not member.issparse() and _safe(name, uri):
            yield name, member.offset_data, member.size, member.size, 0, 0
        tar.members.clear()  # type: ignore[attr-defined]  # a TarInfo each would take gigabytes


def _safe(name: str, uri: str) -> bool:
    try:
        check_member(name, uri)
    except BadInput:
        return False  # never listed; asked for by name, it is refused by `check_member`
    return True
