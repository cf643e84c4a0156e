"""MMEB-train as downloaded: `root/<Subset>/<split>-*.parquet`, image paths relative to `root`.

Columns `qry, qry_image_path, pos_text, pos_image_path`, in some subsets also `neg_text, neg_image_path`. The token
`<|image_1|>` is dropped wherever it stands, for the media stand before the text; a token without a path (WebQA) has no
media. A row's key is its content: upstream gives it no id.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from schemas.recipe import MmebSource
from umer1_core.errors import BadInput, SourceError
from umer1_core.media import safe_join
from umer1_core.pairs import Media
from umer1_core.sampling.instructions import IMAGE_TOKEN
from umer1_core.sampling.rows import (
    RawRow,
    RawSide,
    Refused,
    SourceSpec,
    checked,
    parquet_rows,
    require_folder,
    text_of,
)

_REQUIRED = ["qry", "qry_image_path", "pos_text", "pos_image_path"]
_NEGATIVES = ("neg_text", "neg_image_path")


def list_mmeb(config: MmebSource) -> list[SourceSpec]:
    """One unit per subset that the recipe names, or per subset found."""
    root = require_folder(config.root, "mmeb")
    found = sorted({file.parent.name for file in root.glob(f"*/{config.split}-*.parquet")})
    for subset in config.subsets:
        if subset not in found:
            raise _unknown_subset(subset, root, config.split, found)
    if not found:
        raise SourceError(
            f"mmeb: there is no <Subset>/{config.split}-*.parquet under {root}.",
            "Download TIGER-Lab/MMEB-train there, or correct `root` or `split`.",
        )
    chosen = config.subsets or found
    return [SourceSpec(f"mmeb/{subset}", "image", config, config.limit, subset) for subset in chosen]


@dataclass(frozen=True)
class MmebSubset:
    """The rows of one subset."""

    root: Path
    subset: str
    split: str

    def rows(self) -> Iterator[RawRow | Refused]:
        for file in sorted((self.root / self.subset).glob(f"{self.split}-*.parquet")):
            for number, cells in enumerate(parquet_rows(file, _REQUIRED, _NEGATIVES)):
                yield self._row(cells, str(file), number)

    def place(self, reference: str) -> tuple[str, int]:
        return "", 0

    def locate(self, reference: str) -> Media:
        return Media("image", str(safe_join(self.root, reference)))

    def _row(self, cells: dict[str, Any], file: str, number: int) -> RawRow | Refused:
        source = f"mmeb/{self.subset}"
        try:
            values = [text_of(cells[column], column, number, file) for column in _REQUIRED]
        except BadInput as error:
            return Refused(source, f"{Path(file).name}#{number}", error.reason, error.detail)
        query = _side(values[0], values[1], "qry", "qry_image_path")
        target = _side(values[2], values[3], "pos_text", "pos_image_path")
        return checked(RawRow(source, "\x1f".join(values), file, number, query, target, _negatives(cells)))


def _side(text: str, path: str, text_field: str, path_field: str) -> RawSide:
    path = path.strip()
    return RawSide(text.replace(IMAGE_TOKEN, "").strip(), path, path_field if path else text_field)


def _negatives(cells: dict[str, Any]) -> tuple[RawSide, ...]:
    columns = [_as_list(cells.get(name)) for name in _NEGATIVES]
    sides = [_side(text, path, *_NEGATIVES) for text, path in zip_longest(*columns, fillvalue="")]
    return tuple(side for side in sides if not side.empty)


def _as_list(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [item if isinstance(item, str) else "" for item in values]


def _unknown_subset(subset: str, root: Path, split: str, found: list[str]) -> SourceError:
    if (root / subset).is_dir():
        splits = sorted(
            {file.name.rpartition("-of-")[0].rpartition("-")[0] for file in (root / subset).glob("*.parquet")}
        )
        return SourceError(
            f"mmeb: {root / subset} has no {split}-*.parquet (its splits: {', '.join(splits) or 'none'}).",
            "Download that split, or correct `split`.",
        )
    close = difflib.get_close_matches(subset, found, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(found) or 'none'}."
    return SourceError(f"mmeb: there is no subset {subset} under {root}.", hint)
