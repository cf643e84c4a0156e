"""Any data set that `datasets` reads, by a hub name or a folder, with its columns mapped to the parts of a pair.

Parquet is read where it lies, on this machine or on the hub, and images in it stay where they are: a pair names the
cell. Every other form (JSON, CSV, image folders, WebDataset, Arrow of `save_to_disk`) is streamed once into one Parquet
file beside the cache of `datasets`, under a name made of its files' states: paths of images stay paths, embedded
images become cells. That file must be kept as long as the pairs are used. Rows are those of own data.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from schemas.sources import DatasetSource
from umer1_core.errors import BadInput, SourceError
from umer1_core.media import local_path
from umer1_core.pairs import Media
from umer1_core.sampling.fields import container, locate, modality_of
from umer1_core.sampling.finding import Finder
from umer1_core.sampling.mapped import mapped_rows
from umer1_core.sampling.own import read_row
from umer1_core.sampling.places import Place, open_file, place
from umer1_core.sampling.rows import RawRow, Refused, SourceSpec, place_of

_BATCH = 256
_SAVED = {"state.json": False, "dataset_dict.json": True}  # what `save_to_disk` leaves: of one data set, or of splits


def list_dataset(config: DatasetSource) -> list[SourceSpec]:
    """One unit. Raises SourceError where `datasets` finds no such data set or split."""
    name = f"dataset/{config.name}"
    if not (config.columns.query_text or config.columns.query_image or config.columns.query_video):
        raise SourceError(
            f"{name}: `columns` maps nothing to the query.", "Set query_text, query_image or query_video."
        )
    if not (config.columns.target_text or config.columns.target_image or config.columns.target_video):
        raise SourceError(f"{name}: `columns` maps nothing to the target.", "Set target_text, target_image, ….")
    if saved := _saved(config):
        _require_saved_split(config, saved)
    else:
        _parquet_files(config)
    return [SourceSpec(name, modality_of(config.modality), config, config.limit)]


@dataclass(frozen=True)
class Dataset:
    """The rows of one split."""

    config: DatasetSource

    def rows(self) -> Iterator[RawRow | Refused]:
        source = f"dataset/{self.config.name}"
        for file in self._files:
            for number, record in enumerate(mapped_rows(file, self.config.columns)):
                try:
                    yield read_row(record, source, file, number, self.config)
                except BadInput as error:
                    yield Refused(source, place_of(file, number), error.reason, error.detail)

    def files(self) -> Sequence[str]:
        return self._files

    def place(self, reference: str) -> tuple[str, int]:
        return container(reference, self._finder) if reference else ("", 0)

    def locate(self, reference: str) -> tuple[Media, ...]:
        return locate(reference, self._finder)

    @cached_property
    def _finder(self) -> Finder:
        return Finder(_root(self.config), self.config.frames)

    @cached_property
    def _files(self) -> list[str]:
        return (None if _saved(self.config) else _parquet_files(self.config)) or [str(_converted(self.config))]


def _root(config: DatasetSource) -> Place:
    """What paths in cells are relative to."""
    if config.root:
        return place(config.root)
    revision = f"@{config.revision}" if config.revision else ""
    return place(config.path) if _is_folder(config.path) else Place(f"hf://datasets/{config.path}{revision}")


def _is_folder(path: str) -> bool:
    return local_path(path) is not None and place(path).is_folder()


def _saved(config: DatasetSource) -> str | None:
    """The file that says that a folder was written by `save_to_disk`."""
    return next((name for name in _SAVED if _is_folder(config.path) and place(config.path).exists(name)), None)


def _require_saved_split(config: DatasetSource, saved: str) -> None:
    with open_file(place(config.path).join(saved)) as file:
        splits = orjson.loads(file.read()).get("splits", []) if _SAVED[saved] else [config.split]
    if config.split not in splits:
        raise _no_split(config, splits)


def _no_split(config: DatasetSource, splits: Iterable[str]) -> SourceError:
    there = ", ".join(splits) or "none"
    return SourceError(
        f"dataset/{config.name}: {config.path} has no split {config.split} (its splits: {there}).", "Correct `split`."
    )


# -- what `datasets` knows -------------------------------------------------------------------------------------------


def _data_files(config: DatasetSource) -> tuple[str, Any]:
    """The name of the builder of a data set, and the files of the split."""
    name = f"dataset/{config.name}"
    import datasets  # takes a second; only recipes that name one wait for it

    try:
        builder = datasets.load_dataset_builder(
            config.path, name=config.config or None, revision=config.revision or None
        )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise SourceError(
            f"{name}: `datasets` finds nothing to read at {config.path}: {_short(error)}",
            "Correct `path`, `config` or `revision`; without network give a local folder.",
        ) from error
    files = builder.config.data_files or {}
    if config.split not in files:
        raise _no_split(config, map(str, files))
    return str(builder.name), files[config.split]


def _parquet_files(config: DatasetSource) -> list[str] | None:
    """The files of the split where they are Parquet; None where they are something else."""
    kind, files = _data_files(config)
    return [str(file) for file in files] if kind == "parquet" else None


def _converted(config: DatasetSource) -> Path:
    """The split as one Parquet file of the mapped columns, written unless it is there."""
    import datasets

    target = Path(datasets.config.HF_DATASETS_CACHE) / "umer1" / f"{_identity(config)}.parquet"
    if target.exists():
        return target
    temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(_stream(config), config, temporary)
        os.replace(temporary, target)
    except (OSError, ValueError, TypeError, RuntimeError, pa.ArrowException) as error:
        raise SourceError(
            f"dataset/{config.name}: {config.path} cannot be read by `datasets`: {_short(error)}",
            "Save it as Parquet, or correct `columns`.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _identity(config: DatasetSource) -> str:
    """Changes with the mapping and with the files."""
    saved = _saved(config)
    if saved:
        folder = Path(place(config.path).uri)
        folder = folder / config.split if _SAVED[saved] else folder
        state = [(folder / "state.json").read_text()] if (folder / "state.json").exists() else []
    else:
        files = _data_files(config)[1]
        state = [str(file) for file in files] + [str(part) for part in files.origin_metadata]
    chosen = config.model_dump(mode="json", include={"path", "config", "split", "revision", "columns"})
    return blake3(orjson.dumps([chosen, state])).hexdigest()[:32]


def _stream(config: DatasetSource) -> Any:
    """The rows, images not decoded."""
    import datasets

    saved = _saved(config)
    if saved is None:
        chosen = {"name": config.config or None, "split": config.split, "revision": config.revision or None}
        rows = datasets.load_dataset(config.path, streaming=True, **chosen)
        return rows if rows.features is None else rows.decode(False)  # without features nothing is decoded
    loaded = datasets.load_from_disk(config.path)
    loaded = loaded[config.split] if _SAVED[saved] else loaded
    return loaded.to_iterable_dataset().decode(False)


def _write(rows: Iterable[dict[str, Any]], config: DatasetSource, target: Path) -> None:
    """Raises SourceError when a mapped column is not there."""
    wanted = list(dict.fromkeys(column.split(".")[0] for column in config.columns.model_dump().values() if column))
    stream = iter(rows)
    writer: pq.ParquetWriter | None = None
    try:
        while batch := list(islice(stream, _BATCH)):
            missing = [column for column in wanted if not any(column in row for row in batch)]
            if missing and writer is None:
                has = ", ".join(batch[0])
                raise SourceError(
                    f"dataset/{config.name}: {config.path} has no column `{missing[0]}` (it has {has}).",
                    "Correct `columns`.",
                )
            records = [{column: _stored(row.get(column)) for column in wanted} for row in batch]
            schema = writer.schema if writer else _schema(records)
            writer = writer or pq.ParquetWriter(target, schema)
            writer.write_table(pa.Table.from_pylist(records, schema=schema))
    finally:
        if writer:
            writer.close()
    if writer is None:
        raise SourceError(f"dataset/{config.name}: the split {config.split} of {config.path} is empty.", "Take it out.")


def _schema(records: list[dict[str, Any]]) -> pa.Schema:
    """That of the first rows; a column that is empty in them is text."""
    inferred = pa.Table.from_pylist(records).schema
    return pa.schema([(f.name, pa.string() if pa.types.is_null(f.type) else f.type) for f in inferred])


def _stored(value: Any) -> Any:
    """An image that is a file as its path, an embedded one as a cell; everything else as it is."""
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        if value["bytes"] is None:
            return value["path"]
        return {"bytes": value["bytes"], "path": os.path.basename(value["path"] or "")}
    return [_stored(each) for each in value] if isinstance(value, list) else value


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
