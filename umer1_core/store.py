"""Tables of one data set: folders of Parquet shards plus a manifest, on any fsspec URI.

Guarantees: a shard is there whole or not at all (temporary name, fsync, rename; on object stores one PUT), and its
entry, with rows, bytes and checksum, is written after it. Entries are the truth; `manifest.json` collects them. A shard
that is byte for byte the parent version's is shared with it: a hard link on a disk, a copy inside an object store.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from schemas.tables import ADDED, SCHEMA_VERSION, TABLES
from umer1_core.errors import StorageError

_TEMPORARY = ".tmp-"
_ROW_GROUP = {"cold_start": 1_024}  # rows in a group: training reads rows in an order of its own


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """What the manifest knows of a shard. `metrics` holds the stage's own counts (small, JSON).

    shared_with: the version (as `v1`) whose file this is, where it was taken over unchanged; otherwise empty.
    """

    table: str
    shard: str
    rows: int
    bytes: int
    checksum: str
    fingerprint: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    shared_with: str = ""


class Store:
    """The files of one data set version under one root."""

    def __init__(self, root: str) -> None:
        self.root = str(root).rstrip("/")
        self.fs, self.path = fsspec.core.url_to_fs(self.root)
        self.local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    @cached_property
    def parent(self) -> Store | None:
        """The same tables of the version before, by version.json; a data set may have been moved as a whole."""
        versions, _, own = self.root.rpartition("/")
        if record := self.read_json("version.json"):
            inside = ""
        else:  # tables inside a version, as its held-out pairs
            versions, inside = versions.rpartition("/")[0], f"/{own}"
            record = Store(self.root.rpartition("/")[0]).read_json("version.json")
        name = record["parent"].rpartition("/")[2] if record else ""
        return Store(f"{versions}/{name}{inside}") if name else None

    def at(self, name: str) -> str:
        return f"{self.path}/{name}"

    def shard_name(self, table: str, shard: str) -> str:
        return f"{table}/{shard}.parquet"

    # -- files ---------------------------------------------------------------------------------------------------

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all. Raises StorageError, naming the file, when it cannot."""
        target = self.at(name)
        try:
            self.fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            if self.local:
                _write_local(Path(target), data)
            else:
                self.fs.pipe_file(target, data)
        except OSError as error:
            raise StorageError(f"Cannot write {target}: {error.strerror or error}.", _storage_remedy(error)) from error

    def read_bytes(self, name: str) -> bytes:
        return bytes(self.fs.cat_file(self.at(name)))

    def exists(self, name: str) -> bool:
        return bool(self.fs.exists(self.at(name)))

    def delete(self, name: str) -> None:
        if self.exists(name):
            self.fs.rm_file(self.at(name))

    def write_json(self, name: str, value: Any) -> None:
        self.write_bytes(name, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))

    def read_json(self, name: str) -> Any:
        """The parsed file, or None where there is none."""
        return orjson.loads(self.read_bytes(name)) if self.exists(name) else None

    def sweep(self) -> int:
        """Remove temporary files that a killed writer left; returns how many."""
        if not self.fs.exists(self.path):
            return 0
        left = [name for name in self.fs.find(self.path) if _TEMPORARY in name.rsplit("/", 1)[-1]]
        for name in left:
            self.fs.rm_file(name)
        return len(left)

    # -- shards --------------------------------------------------------------------------------------------------

    def write_shard(
        self, table: str, shard: str, rows: Iterable[dict[str, Any]] | pa.Table, fingerprint: str = "", **metrics: Any
    ) -> ShardEntry:
        """Write a shard of `table` in its schema, then its entry; what the parent has already is not written again."""
        schema = TABLES[table]
        content = rows.cast(schema) if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=schema)
        sink = pa.BufferOutputStream()
        plain = content.replace_schema_metadata(schema.metadata)
        pq.write_table(plain, sink, compression="zstd", row_group_size=_ROW_GROUP.get(table))
        data = sink.getvalue().to_pybytes()
        checksum = blake3(data).hexdigest()
        entry = ShardEntry(table, shard, content.num_rows, len(data), checksum, fingerprint, metrics)
        twin = self.parent.entry(table, shard) if self.parent else None
        if self.parent and twin and twin.checksum == checksum:
            return self.adopt(self.parent, entry)
        self.write_bytes(self.shard_name(table, shard), data)
        self.write_entry(entry)
        return entry

    def write_entry(self, entry: ShardEntry) -> None:
        self.write_json(f"entries/{entry.table}/{entry.shard}.json", asdict(entry))

    def adopt(self, other: Store, entry: ShardEntry) -> ShardEntry:
        """Share a shard of another version of this data set: its file without writing it again, then `entry` here."""
        name = self.shard_name(entry.table, entry.shard)
        try:
            self.fs.makedirs(self.at(entry.table), exist_ok=True)
            if self.local and other.local:
                _link_local(Path(other.at(name)), Path(self.at(name)))
            elif type(self.fs) is type(other.fs):
                self.fs.cp_file(other.at(name), self.at(name))
            else:
                self.write_bytes(name, other.read_bytes(name))
        except OSError as error:
            raise StorageError(
                f"Cannot write {self.at(name)}: {error.strerror or error}.", _storage_remedy(error)
            ) from error
        adopted = replace(entry, shared_with=other.root.rpartition("/")[2])
        self.write_entry(adopted)
        return adopted

    def inherit(self, table: str, shard: str, fingerprint: str) -> ShardEntry | None:
        """The finished shard made with `fingerprint`: this version's own, or the parent's, which is then shared."""
        if own := self.entry(table, shard, fingerprint):
            return own
        theirs = self.parent.entry(table, shard, fingerprint) if self.parent else None
        return self.adopt(self.parent, theirs) if self.parent and theirs else None

    def entry(self, table: str, shard: str, fingerprint: str | None = None) -> ShardEntry | None:
        """The entry of a finished shard whose file is there, made with `fingerprint` where one is given."""
        record = self.read_json(f"entries/{table}/{shard}.json")
        if record is None or not self.exists(self.shard_name(table, shard)):
            return None
        entry = ShardEntry(**record)
        return entry if fingerprint is None or entry.fingerprint == fingerprint else None

    def entries(self, table: str) -> list[ShardEntry]:
        """All finished shards of a table, by name."""
        folder = self.at(f"entries/{table}")
        if not self.fs.exists(folder):
            return []
        found = (name for name in self.fs.find(folder) if _TEMPORARY not in name.rsplit("/", 1)[-1])
        names = sorted(name for name in found if name.endswith(".json"))
        return [ShardEntry(**orjson.loads(self.fs.cat_file(name))) for name in names]

    def read_shard(self, table: str, shard: str, columns: list[str] | None = None) -> pa.Table:
        name = self.shard_name(table, shard)
        try:
            with self.fs.open(self.at(name)) as file:
                return parse_shard(table, file, columns)
        except (pa.ArrowInvalid, FileNotFoundError) as error:
            raise StorageError(
                f"Shard {self.at(name)} cannot be read: {error}.",
                "Delete it together with its file under entries/ and run again: it is made anew.",
            ) from error

    def read(self, table: str, columns: list[str] | None = None) -> pa.Table:
        """A whole table; for columns that are small or data sets that are."""
        parts = [self.read_shard(table, entry.shard, columns) for entry in self.entries(table)]
        schema = TABLES[table]
        empty = schema.empty_table().select(columns) if columns else schema.empty_table()
        return pa.concat_tables([empty, *parts]) if parts else empty

    def iterate(self, table: str, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """Rows of a table, a shard in memory at a time."""
        for entry in self.entries(table):
            yield from self.read_shard(table, entry.shard, columns).to_pylist()

    def files(self, table: str) -> list[str]:
        """The paths of a table's finished shards, for engines that read Parquet themselves."""
        return [self.at(self.shard_name(table, entry.shard)) for entry in self.entries(table)]

    def collect_manifest(self, **fields: Any) -> dict[str, Any]:
        """Write manifest.json: the given fields, which replace earlier ones, and every table's entries."""
        manifest = self.read_json("manifest.json") or {}
        manifest.update(fields)
        manifest["schema_version"] = SCHEMA_VERSION
        manifest["tables"] = {table: [asdict(e) for e in self.entries(table)] for table in TABLES}
        self.write_json("manifest.json", manifest)
        return manifest


def parse_shard(table: str, file: IO[bytes] | pa.NativeFile, columns: list[str] | None = None) -> pa.Table:
    """The rows of a shard in today's schema, also of one written under an earlier schema version."""
    content = pq.read_table(file, columns=columns, schema=TABLES[table])
    for name, value in ADDED.get(table, {}).items():
        if name in content.column_names:
            place = content.column_names.index(name)
            content = content.set_column(place, content.field(place), content[name].fill_null(value))
    return content


def content_hash(entries: Iterable[ShardEntry]) -> str:
    """One hash over the shards' checksums: the identity of a table's content."""
    lines = sorted(f"{entry.table}/{entry.shard}:{entry.checksum}" for entry in entries)
    return blake3("\n".join(lines).encode()).hexdigest()[:32]


def fingerprint(*parts: Any) -> str:
    """A short hash of JSON-able settings: a shard made under another fingerprint is not reused."""
    return blake3(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def _write_local(target: Path, data: bytes) -> None:
    temporary = target.with_name(f"{_TEMPORARY}{uuid.uuid4().hex[:8]}-{target.name}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _link_local(source: Path, target: Path) -> None:
    """One file under two names where the disk can do that; a copy where it cannot, or where they lie on two disks."""
    temporary = target.with_name(f"{_TEMPORARY}{uuid.uuid4().hex[:8]}-{target.name}")
    try:
        try:
            os.link(source, temporary)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # a rename onto the same file leaves its other name


def _storage_remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space or set `output` to another disk, then run the same command: finished shards are kept."
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return "Set `output` to a folder you may write to."
    return "Check the path in `output`, then run the same command: finished shards are kept."
