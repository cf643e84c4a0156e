"""`umer1 publish`: a finished data set as a folder that others load, or on the hub.

Guarantees: what is exported is exactly `cold_start` and `rl` of the version; the same command after an interruption
keeps the finished files (folder.py) and what the hub has already. Tokens come from the environment and stand nowhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from blake3 import blake3

from schemas.recipe import Recipe
from umer1_core.errors import StorageError
from umer1_core.publishing.card import CARD, render_card
from umer1_core.publishing.export import Form, Wanted
from umer1_core.publishing.export.folder import ExportFolder
from umer1_core.publishing.export.hub import push
from umer1_core.publishing.export.parquet import FORM, TABLES, Piece, arrow_schema, plan, write_piece
from umer1_core.publishing.export.released import FILES, Pictures, write_records
from umer1_core.publishing.export.released import FORM as RELEASED_FORM
from umer1_core.store import Store, content_hash
from umer1_core.versions import local_folder

HUB = "hub:"


@dataclass(frozen=True, slots=True)
class Exported:
    """Where it is, its files (of these `kept` were finished before) and bytes, and rows left out by reason."""

    place: str
    files: int
    kept: int
    bytes: int
    left_out: dict[str, int]


def export(
    store: Store,
    recipe: Recipe,
    to: str,
    form: Form = "datasets",
    media: Wanted = "reference",
    show: Callable[[str, int, int], None] | None = None,
) -> Exported:
    """Export to a folder, or to the hub (`hub:name/of-it`) by way of a folder beside the data set.

    show: called with a file's name, the files done and all files. Raises StorageError.
    """
    manifest = store.read_json("manifest.json")
    if manifest is None:
        raise StorageError(f"{store.root} holds no finished data set.", "Build it first: umer1 build …")
    if to.startswith(HUB) and form == "released" and media == "reference":
        raise StorageError("Links to this machine's folders are no use on the hub.", "Add --media embed.")
    folder = ExportFolder.open(_folder(store, to))
    report = show or _silent
    write = _write_datasets if form == "datasets" else _write_released
    wanted = write(store, recipe, manifest, folder, media, to.removeprefix(HUB), report)
    folder.finish(wanted)
    place = push(folder.path, to.removeprefix(HUB)) if to.startswith(HUB) else str(folder.path)
    reasons = [row["reason"] for rows in folder.left_out.values() for row in rows]
    counted = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    return Exported(place, len(folder.files), folder.kept, folder.bytes, counted)


def _write_datasets(
    store: Store,
    recipe: Recipe,
    manifest: dict[str, Any],
    folder: ExportFolder,
    media: Wanted,
    name: str,
    show: Callable[[str, int, int], None],
) -> set[str]:
    pieces = {table: plan(store, table, media) for table in TABLES}
    every = [piece for each in pieces.values() for piece in each]
    folder.require_space(sum(piece.bytes for piece in every))
    for number, piece in enumerate(every):
        show(piece.name, number, len(every))

        def make(target: Path, piece: Piece = piece) -> list[dict[str, str]]:
            return write_piece(store, piece, media, target)

        folder.write(piece.name, piece.made_from(media), make)
    exported = {table: [_listed(piece, folder) for piece in each] for table, each in pieces.items()}
    schemas = {table: arrow_schema(schema) for table, schema in TABLES.items()}
    _write_card(folder, recipe, manifest | {"tables": exported}, name, schemas, f"{FORM} {media}")
    show(CARD, len(every), len(every))
    return {piece.name for piece in every} | {CARD}


def _write_released(
    store: Store,
    recipe: Recipe,
    manifest: dict[str, Any],
    folder: ExportFolder,
    media: Wanted,
    name: str,
    show: Callable[[str, int, int], None],
) -> set[str]:
    roots = [root for source in recipe.sources if (root := getattr(source, "root", ""))]
    pictures = Pictures(folder.path, roots, media)
    for number, (table, file) in enumerate(FILES.items()):
        show(file, number, len(FILES))

        def make(target: Path, table: str = table) -> list[dict[str, str]]:
            return write_records(store, table, pictures, target)

        folder.write(file, f"{RELEASED_FORM} {media} {content_hash(store.entries(table))}", make)
    _write_card(folder, recipe, manifest | {"tables": {}}, name, {}, f"{RELEASED_FORM} {media}")
    show(CARD, len(FILES), len(FILES))
    return {*FILES.values(), CARD}


def _write_card(
    folder: ExportFolder,
    recipe: Recipe,
    manifest: dict[str, Any],
    name: str,
    schemas: dict[str, pa.Schema],
    form: str,
) -> None:
    embedded = form.endswith("embed")
    text = render_card(recipe, manifest, name, schemas, exported="embedded" if embedded else "referenced").encode()

    def make(target: Path) -> list[dict[str, str]]:
        target.write_bytes(text)
        return []

    folder.write(CARD, f"{form} {blake3(text).hexdigest()}", make)


def _listed(piece: Piece, folder: ExportFolder) -> dict[str, Any]:
    """As an entry of the manifest, for the card."""
    rows = piece.stop - piece.start - len(folder.left_out.get(piece.name, ()))
    return asdict(piece.entry) | {"shard": Path(piece.name).stem, "rows": rows}


def _folder(store: Store, to: str) -> Path:
    if to.startswith(HUB):
        return local_folder(store, "export") / to.removeprefix(HUB).replace("/", "--")
    if "://" in to:
        raise StorageError(f"Cannot export to {to}.", "Name a folder of this machine, or hub:name/of-it.")
    return Path(os.path.expanduser(to)).absolute()


def _silent(name: str, done: int, of: int) -> None:
    """Nobody looks."""
