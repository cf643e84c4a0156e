"""VisRAG in-domain training data: `root/data/train-*.parquet` with `query`, `image`, `source`.

The query is text under its source's prompt, the target the page under its source's description. Pairs are named by the
row's own source, as `visrag/ChartQA`. A row's key is query, source and the image's name (its bytes where it has none).
"""

from __future__ import annotations

from typing import Any

from schemas.sources import VisragSource
from umer1_core.errors import BadInput
from umer1_core.sampling.cells import CellLayout, cell_reference, image_key
from umer1_core.sampling.instructions import VISRAG_QUERY, VISRAG_TARGET
from umer1_core.sampling.parquet import train_files
from umer1_core.sampling.rows import RawRow, RawSide, Refused, SourceSpec, checked, place_of
from umer1_core.sampling.texts import text_of

NAME = "visrag"


def list_visrag(config: VisragSource) -> list[SourceSpec]:
    train_files(config.root, NAME)
    return [SourceSpec(NAME, "visdoc", config, config.limit)]


def visrag_layout(root: str) -> CellLayout:
    """The rows of all files."""
    return CellLayout(root, NAME, ("query", "source"), _row)


def _row(cells: dict[str, Any], file: str, number: int) -> RawRow | Refused:
    where = place_of(file, number)
    try:
        query = text_of(cells["query"], "query", number, file).strip()
        source = text_of(cells["source"], "source", number, file)
    except BadInput as error:
        return Refused(NAME, where, error.reason, error.detail)
    if source not in VISRAG_QUERY:
        detail = f"source of row {number} of {file} is {source!r}, for which upstream has no prompt"
        return Refused(NAME, where, "unknown_source", detail)
    asked = RawSide(VISRAG_QUERY[source] + query if query else "", "", "query")
    page = RawSide(VISRAG_TARGET[source], cell_reference(file, "image", number), "image")
    key = f"{query}\x1f{image_key(cells['image'])}"
    return checked(RawRow(f"{NAME}/{source}", key, file, number, asked, page))
