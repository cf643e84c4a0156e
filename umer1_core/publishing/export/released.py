"""The authors' JSON form: `UME-sft-train.json` and `UME-rl-train.json`, which their trainer reads as they are.

Guarantees: a record has exactly their keys; rows are streamed, so memory does not grow with the data set. All paths
are relative to the export's folder, the trainer's `data_path`. A side without a picture carries `images/blank.jpg`, as
theirs do, so that every rank runs the vision tower; each picture has its token in the user's turn. Pictures that are
files stay where they are behind a link to their source's root (`reference`) or are copied (`embed`); those inside
archives, Parquet cells and video files are always written out, named by their content.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import orjson
from PIL import Image

from umer1_core.errors import BadInput, StorageError
from umer1_core.media import image_type, is_archive, is_video_file, local_path, read_frames, read_image
from umer1_core.pairs import Media, media_from_record
from umer1_core.publishing.export import Wanted
from umer1_core.publishing.export.pictures import side_kind
from umer1_core.store import Store
from umer1_core.template import side_text_of_prompt

FORM = "released/1"
FILES = {"cold_start": "UME-sft-train.json", "rl": "UME-rl-train.json"}
BLANK = "images/blank.jpg"
_TOKEN = {"image": "<image>", "video": "<video>"}
_VISRAG = "openbmb/VisRAG-Ret-Train-In-domain-data"


def write_records(store: Store, table: str, pictures: Pictures, target: Path) -> list[dict[str, str]]:
    """Write a table as one JSON list; returns the rows that were left out, since a picture cannot be read."""
    left_out: list[dict[str, str]] = []
    with open(target, "wb") as file:
        file.write(b"[")
        for number, record in enumerate(_records(store, table, pictures, left_out)):
            file.write((b",\n" if number else b"\n") + orjson.dumps(record))
        file.write(b"\n]\n")
    return left_out


def dataset_name(source: str) -> str:
    """What the authors call a source: `CIRR`, `llavahound_qa`, `vidore/colpali_train_set`."""
    collection, _, name = source.partition("/")
    known = {"mmeb": name, "llava_hound": f"llavahound_{name}", "visrag": _VISRAG}
    return known.get(collection, source)


class Pictures:
    """The pictures of an export, as paths relative to its folder."""

    def __init__(self, folder: Path, roots: Sequence[str], wanted: Wanted) -> None:
        self._folder = folder
        self._roots = _linked(folder, roots) if wanted == "reference" else {}
        blank = folder / BLANK
        blank.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (28, 28), "white").save(blank)

    def paths(self, media: Media) -> list[str]:
        """An image's path, or a clip's frames'. Raises BadInput where it cannot be read."""
        files = _files(media)
        if files and (linked := [self._behind_link(file) for file in files]) and all(linked):
            return [path for path in linked if path]
        if media.kind == "image":
            data = read_image(media)
            return [self._write(f"images/{media.content_hash[:2]}/{media.content_hash}{_suffix(data)}", data)]
        place = f"videos/{media.content_hash[:2]}/{media.content_hash}"
        return [self._write(f"{place}/{n:03d}{_suffix(data)}", data) for n, data in enumerate(read_frames(media))]

    def _behind_link(self, file: str) -> str | None:
        """The path through the link to its root; None for what lies elsewhere."""
        for name, root in self._roots.items():
            for spelling in (root, str(Path(root).resolve())):
                if PurePosixPath(file).is_relative_to(spelling):
                    return f"{name}/{PurePosixPath(file).relative_to(spelling)}"
        return None

    def _write(self, name: str, data: bytes) -> str:
        target = self._folder / name
        if not target.exists() or target.stat().st_size != len(data):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".tmp-{target.name}")
            try:
                temporary.write_bytes(data)
                temporary.replace(target)
            except OSError as error:
                raise StorageError(f"Cannot write {target}: {error.strerror or error}.", "Free some space.") from error
        return name


def _records(store: Store, table: str, pictures: Pictures, left_out: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    make = _sft_record if table == "cold_start" else _rl_record
    for entry in store.entries(table):
        for batch in store.read_shard(table, entry.shard).to_batches(max_chunksize=1_024):
            for row in batch.to_pylist():
                try:
                    yield make(row, pictures)
                except BadInput as error:
                    left_out.append({"pair_id": row["pair_id"], "reason": error.reason, "detail": error.detail})


def _sft_record(row: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
    sides = {"qry": _sft_side(row, "query", pictures), "pos": _sft_side(row, "target", pictures)}
    return {"dataset_name": dataset_name(row["source"]), **sides}


def _sft_side(row: Mapping[str, Any], role: str, pictures: Pictures) -> dict[str, Any]:
    shown = _shown(row, role, pictures)
    # A clip is one token, however many frames it has.
    tokens = "".join(_TOKEN[kind] * (1 if kind == "video" else len(paths)) for kind, paths in shown.items())
    media = {kind: paths if kind == "video" or len(paths) > 1 else paths[0] for kind, paths in shown.items()}
    turns = [
        {"from": "human", "value": tokens + row[f"{role}_prompt"]},
        {"from": "gpt", "value": row[f"{role}_response"]},
    ]
    return {**media, "conversations": turns}


def _rl_record(row: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
    name = dataset_name(row["source"])
    record: dict[str, Any] = {"dataset": name, "dataset_name": name, "solution": "<embedding>"}
    for ours, theirs in (("query", "qry"), ("target", "pos")):
        shown = _media(row, ours, pictures)
        images, frames = shown.get("image", []), shown.get("video", [])
        record[f"{theirs}_text"] = side_text_of_prompt(row[f"{ours}_prompt"])
        record[f"{theirs}_image"] = images if len(images) > 1 else "".join(images)
        record[f"{theirs}_video"] = frames or [""]
    return record


def _shown(row: Mapping[str, Any], role: str, pictures: Pictures) -> dict[str, list[str]]:
    """The side's pictures, or the blank one, of the kind its data set has."""
    found = _media(row, role, pictures)
    return found or {"video" if row["modality"] == "video" else "image": [BLANK]}


def _media(row: Mapping[str, Any], role: str, pictures: Pictures) -> dict[str, list[str]]:
    records = row[f"{role}_media"]
    clips = sum(record["kind"] == "video" for record in records)
    if clips > 1:
        raise BadInput("several_clips", f"the {role} shows {clips} clips; the form has room for one")
    kinds = ("image", "video") if side_kind(records) != "text" else ()
    found = {
        kind: [p for record in records if record["kind"] == kind for p in pictures.paths(media_from_record(record))]
        for kind in kinds
    }
    return {kind: paths for kind, paths in found.items() if paths}


def _files(media: Media) -> list[str]:
    """Where the pictures lie as files of this machine; nothing for those inside something else."""
    path = local_path(media.uri)
    if path is None or media.member or is_archive(media.uri) or is_video_file(media.uri):
        return []
    return [path] if media.kind == "image" else [f"{path}/{frame}" for frame in media.frames]


def _linked(folder: Path, roots: Sequence[str]) -> dict[str, str]:
    """A link in the folder to each root, called as the root is."""
    links: dict[str, str] = {}
    for root in dict.fromkeys(path for each in roots if (path := local_path(each)) and Path(path).is_dir()):
        name, base, number = Path(root).name, Path(root).name, 2
        while name in links or name in ("images", "videos"):
            name, number = f"{base}-{number}", number + 1
        link = folder / name
        if link.is_symlink():
            link.unlink()
        link.symlink_to(root, target_is_directory=True)
        links[name] = root
    return links


def _suffix(data: bytes) -> str:
    return "." + image_type(data).decode().rpartition("/")[2].replace("jpeg", "jpg")
