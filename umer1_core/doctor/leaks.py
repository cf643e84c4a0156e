"""What training pairs must not show: the content hashes of evaluation sets, read from recipes, data sets or folders."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from schemas.sources import MediaRules, Source
from umer1_core import query
from umer1_core.errors import BadInput, RecipeError
from umer1_core.media import FRAME_SUFFIXES, VIDEO_SUFFIXES, describe
from umer1_core.pairs import Media, MediaKind, draw_priority
from umer1_core.recipes import load_recipe
from umer1_core.sampling.layouts import list_sources, open_layout
from umer1_core.sampling.opening import Opened, open_rows
from umer1_core.sampling.rows import Refused, SourceSpec
from umer1_core.store import Store

PAIRS_OF_A_SET = 2_000  # of an evaluation set that are opened; the public ones have about a thousand
_FILES_OF_A_FOLDER = 50_000
_HASHES = "unnest([item.content_hash FOR item IN list_concat(query.media, target.media)])"


def hashes_of_sources(sources: Sequence[Source], seed: int, rules: MediaRules) -> dict[str, str]:
    """Of the pictures and clips of a recipe's sources, each with where it stands. Raises SourceError."""
    found: dict[str, str] = {}
    for spec in list_sources(sources):
        for media in _media_of(spec, seed, rules):
            found.setdefault(media.content_hash, f"in {spec.name}")
    return found


def hashes_against(location: str, seed: int, rules: MediaRules) -> dict[str, str]:
    """Of another recipe (all its sources), a data set (its pairs), or a folder of pictures and clips.

    Raises RecipeError where it is none of these, and SourceError for a recipe's missing source.
    """
    path = Path(location).expanduser()
    if path.suffix in (".yaml", ".yml"):
        other = load_recipe(path)
        return hashes_of_sources([*other.sources, *other.evaluation.sources], seed, rules)
    if (path / "entries" / "pairs").is_dir():
        return dict.fromkeys(_hashes_of_pairs(Store(str(path))), f"in {location}")
    if path.is_dir():
        return _hashes_of_folder(path, rules)
    raise RecipeError(f"--against: there is nothing at {location}.", "Give a recipe, a data set or a folder.")


def _media_of(spec: SourceSpec, seed: int, rules: MediaRules) -> Iterator[Media]:
    layout = open_layout(spec)
    rows = (row for row in layout.rows() if not isinstance(row, Refused))
    most = min(PAIRS_OF_A_SET, spec.limit)
    drawn = heapq.nsmallest(most, rows, key=lambda row: (draw_priority(seed, row.pair_id), row.row))
    for result in open_rows(layout, drawn, spec.modality, rules):
        if isinstance(result, Opened):
            yield from (*result.pair.query.media, *result.pair.target.media)


def _hashes_of_pairs(store: Store) -> Iterable[str]:
    with query.connect() as connection:
        query.scan(connection, store, "pairs", ["query", "target"])
        found = connection.execute(f"SELECT DISTINCT {_HASHES} AS hash FROM pairs").fetchall()
    return [str(content) for (content,) in found if content]


def _hashes_of_folder(folder: Path, rules: MediaRules) -> dict[str, str]:
    """Of files as files: frames in a folder are pictures here, since nobody says which of them make a clip."""
    found: dict[str, str] = {}
    for file in islice((file for file in folder.rglob("*") if file.is_file()), _FILES_OF_A_FOLDER):
        suffix = file.suffix.lower()
        if suffix in FRAME_SUFFIXES or suffix in VIDEO_SUFFIXES:
            kind: MediaKind = "image" if suffix in FRAME_SUFFIXES else "video"
            try:
                found.setdefault(
                    describe(Media(kind, str(file)), rules).content_hash,
                    f"{file.relative_to(folder)} of {folder.name}/",
                )
            except BadInput:
                continue  # what cannot be opened cannot be evaluated with either
    return found
