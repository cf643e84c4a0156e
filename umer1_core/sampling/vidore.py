"""ViDoRe colpali_train_set: `root/data/train-*.parquet` with `image`, `query`, `answer` and more.

As upstream, the query is the page with the question and the target is the answer's text. A row's key is question,
answer and the page's file name (the image's name or bytes where there is none).
"""

from __future__ import annotations

from typing import Any

from schemas.sources import VidoreSource
from umer1_core.errors import BadInput
from umer1_core.sampling.cells import CellLayout, cell_reference, image_key
from umer1_core.sampling.instructions import DOCUMENT_QUESTION
from umer1_core.sampling.parquet import train_files
from umer1_core.sampling.rows import RawRow, RawSide, Refused, SourceSpec, checked, place_of
from umer1_core.sampling.texts import text_of

NAME = "vidore/colpali_train_set"


def list_vidore(config: VidoreSource) -> list[SourceSpec]:
    train_files(config.root, NAME)
    return [SourceSpec(NAME, "visdoc", config, config.limit)]


def vidore_layout(root: str) -> CellLayout:
    """The rows of all files."""
    return CellLayout(root, NAME, ("query", "answer"), _row, optional=("image_filename",))


def _row(cells: dict[str, Any], file: str, number: int) -> RawRow | Refused:
    try:
        query = text_of(cells["query"], "query", number, file).strip()
        answer = text_of(cells["answer"], "answer", number, file).strip()
    except BadInput as error:
        return Refused(NAME, place_of(file, number), error.reason, error.detail)
    page = cell_reference(file, "image", number) if query else ""
    key = "\x1f".join([query, answer, cells.get("image_filename") or image_key(cells["image"])])
    asked = RawSide(DOCUMENT_QUESTION + query if query else "", page, "image" if query else "query")
    return checked(RawRow(NAME, key, file, number, asked, RawSide(answer, "", "answer")))
