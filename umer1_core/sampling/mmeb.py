"""MMEB-train as downloaded: `root/<Subset>/<split>-*.parquet`, image paths relative to `root`.

Columns `qry, qry_image_path, pos_text, pos_image_path`, in some subsets also `neg_text, neg_image_path`. The token
`<|image_1|>` is dropped wherever it stands, for the media stand before the text; a token without a path (WebQA) has no
media. Images are files, or still lie in `images_zip/<Subset>.zip` as downloaded (see umer1_core.sampling.finding). A
row's key is its content: upstream gives it no id.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

from schemas.sources import MmebSource
from umer1_core.errors import BadInput, SourceError, safe_url
from umer1_core.pairs import Media
from umer1_core.sampling.finding import Finder
from umer1_core.sampling.instructions import IMAGE_TOKEN
from umer1_core.sampling.parquet import parquet_rows
from umer1_core.sampling.places import Place, require_place
from umer1_core.sampling.rows import RawRow, RawSide, Refused, SourceSpec, checked, place_of
from umer1_core.sampling.texts import text_of

_REQUIRED = ["qry", "qry_image_path", "pos_text", "pos_image_path"]
_NEGATIVES = ("neg_text", "neg_image_path")
_TOKEN = re.compile(re.escape(IMAGE_TOKEN).replace("1", r"\d+"))


def list_mmeb(config: MmebSource) -> list[SourceSpec]:
    """One unit per subset that the recipe names, or per subset found."""
    root = require_place(config.root, "mmeb")
    found = sorted({uri.split("/")[-2] for uri in root.glob(f"*/{config.split}-*.parquet")})
    for subset in config.subsets:
        if subset not in found:
            raise _unknown_subset(subset, root, config.split, found)
    if not found:
        raise SourceError(
            f"mmeb: there is no <Subset>/{config.split}-*.parquet under {safe_url(root.uri)}.",
            "Download TIGER-Lab/MMEB-train there, or correct `root` or `split`.",
        )
    chosen = config.subsets or found
    return [SourceSpec(f"mmeb/{subset}", "image", config, config.limit, subset) for subset in chosen]


@dataclass(frozen=True)
class MmebSubset:
    """The rows of one subset."""

    root: Place
    subset: str
    split: str

    def rows(self) -> Iterator[RawRow | Refused]:
        for file in self.files():
            for number, cells in enumerate(parquet_rows(file, _REQUIRED, _NEGATIVES)):
                yield self._row(cells, file, number)

    def files(self) -> Sequence[str]:
        return self.root.glob(f"{self.subset}/{self.split}-*.parquet")

    def place(self, reference: str) -> tuple[str, int]:
        return self._finder.container(reference) if reference else ("", 0)

    def locate(self, reference: str) -> tuple[Media, ...]:
        return (self._finder.image(reference),)

    @cached_property
    def _finder(self) -> Finder:
        return Finder(self.root)

    def _row(self, cells: dict[str, Any], file: str, number: int) -> RawRow | Refused:
        source = f"mmeb/{self.subset}"
        try:
            values = [text_of(cells[column], column, number, file) for column in _REQUIRED]
        except BadInput as error:
            return Refused(source, place_of(file, number), error.reason, error.detail)
        query = _side(values[0], values[1], "qry", "qry_image_path")
        target = _side(values[2], values[3], "pos_text", "pos_image_path")
        return checked(RawRow(source, "\x1f".join(values), file, number, query, target, _negatives(cells)))


def _side(text: str, path: str, text_field: str, path_field: str) -> RawSide:
    path = path.strip()
    return RawSide(_TOKEN.sub("", text).strip(), path, path_field if path else text_field)


def _negatives(cells: dict[str, Any]) -> tuple[RawSide, ...]:
    columns = [_as_list(cells.get(name)) for name in _NEGATIVES]
    sides = [_side(text, path, *_NEGATIVES) for text, path in zip_longest(*columns, fillvalue="")]
    return tuple(side for side in sides if not side.empty)


def _as_list(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [item if isinstance(item, str) else "" for item in values]


def _unknown_subset(subset: str, root: Place, split: str, found: list[str]) -> SourceError:
    folder = Place(f"{root.uri}/{subset}")
    if folder.is_folder():
        files = (uri.rpartition("/")[2] for uri in folder.glob("*.parquet"))
        splits = sorted({name.rpartition("-of-")[0].rpartition("-")[0] for name in files})
        return SourceError(
            f"mmeb: {safe_url(folder.uri)} has no {split}-*.parquet (its splits: {', '.join(splits) or 'none'}).",
            "Download that split, or correct `split`.",
        )
    close = difflib.get_close_matches(subset, found, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(found) or 'none'}."
    return SourceError(f"mmeb: there is no subset {subset} under {safe_url(root.uri)}.", hint)
