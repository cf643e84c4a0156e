"""ViDoRe colpali_train_set: `root/data/train-*.parquet` with `image`, `query`, `answer` and more.

As upstream, the query is the page with the question and the target is the answer's text. A row's key is question,
answer and the page's file name (the image's name or bytes where there is none).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.recipe import VidoreSource
from umer1_core.errors import BadInput
from umer1_core.pairs import Media
from umer1_core.sampling.cells import image_columns, image_key
from umer1_core.sampling.instructions import DOCUMENT_QUESTION
from umer1_core.sampling.rows import (
    RawRow,
    RawSide,
    Refused,
    SourceSpec,
    cell_media,
    cell_place,
    cell_reference,
    checked,
    parquet_files,
    parquet_rows,
    text_of,
)

NAME = "vidore/colpali_train_set"


def list_vidore(config: VidoreSource) -> list[SourceSpec]:
    parquet_files(config.root, NAME)
    return [SourceSpec(NAME, "visdoc", config, config.limit)]


@dataclass(frozen=True)
class Vidore:
    """The rows of all files."""

    root: str

    def rows(self) -> Iterator[RawRow | Refused]:
        for file in parquet_files(self.root, NAME):
            columns = ["query", "answer", *image_columns(file)]
            for number, cells in enumerate(parquet_rows(file, columns, ("image_filename",))):
                yield _row(cells, file, number)

    def place(self, reference: str) -> tuple[str, int]:
        return cell_place(reference)

    def locate(self, reference: str) -> Media:
        return cell_media(reference)


def _row(cells: dict[str, Any], file: Path, number: int) -> RawRow | Refused:
    try:
        query = text_of(cells["query"], "query", number, str(file)).strip()
        answer = text_of(cells["answer"], "answer", number, str(file)).strip()
    except BadInput as error:
        return Refused(NAME, f"{file.name}#{number}", error.reason, error.detail)
    page = cell_reference(file, "image", number) if query else ""
    key = "\x1f".join([query, answer, cells.get("image_filename") or image_key(cells)])
    asked = RawSide(DOCUMENT_QUESTION + query if query else "", page, "image" if query else "query")
    return checked(RawRow(NAME, key, str(file), number, asked, RawSide(answer, "", "answer")))
