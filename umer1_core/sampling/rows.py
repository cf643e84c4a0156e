"""What a layout yields before any media is touched: rows with their key and texts, or refused rows with a reason.

A layout is one readable unit of a data set. It streams its rows in a fixed order, tells where a drawn row's media
lie, and turns a reference of its own (a path, a video id, a cell) into `Media`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.sources import Source
from umer1_core.errors import BadInput
from umer1_core.pairs import Media, Modality, pair_id
from umer1_core.sampling.texts import check_text


@dataclass(frozen=True)
class SourceSpec:
    """One readable unit of a recipe's source: `mmeb/OK-VQA`, `llava_hound/qa`, `visrag`, `own/<name>`.

    name: what its rows are called, except where a row says itself what it is called (`visrag/ChartQA`, released data).
    modality: of its rows, except where a row says its own.
    unit: the subset, builder or file inside the configuration; empty where there is only one.
    """

    name: str
    modality: Modality
    config: Source
    limit: int
    unit: str = ""


@dataclass(frozen=True, slots=True)
class RawSide:
    """Text as it will be shown, the layout's reference to its media, and the field to name in a message.

    response: the completion that came with it (released data).
    """

    text: str
    reference: str
    field: str
    response: str = ""

    @property
    def empty(self) -> bool:
        return not self.text and not self.reference


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as read. `key` identifies its content; `file` (a URI) and `row` say where it stands.

    modality: the row's own, where its source has several. note: a word that is counted apart (`caption_line`).
    """

    source: str
    key: str
    file: str
    row: int
    query: RawSide
    target: RawSide
    negatives: tuple[RawSide, ...] = ()
    modality: Modality | None = None
    note: str = ""

    @property
    def pair_id(self) -> str:
        return pair_id(self.source, self.key)

    @property
    def place(self) -> str:
        """Where the row stands, for a person."""
        return place_of(self.file, self.row)

    def refuse(self, reason: str, detail: str) -> Refused:
        return Refused(self.source, self.place, reason, detail)


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that never becomes a pair (a row of schemas.tables.REJECTIONS)."""

    source: str
    row: str
    reason: str
    detail: str


class Layout(Protocol):
    """One unit of a data set."""

    def rows(self) -> Iterator[RawRow | Refused]:
        """All rows, in an order that does not change."""
        ...

    def files(self) -> Sequence[str]:
        """The URIs of what the rows are read from, media not among them."""
        ...

    def place(self, reference: str) -> tuple[str, int]:
        """The container a reference must be read from in stored order, and its position there; ("", 0): none."""
        ...

    def locate(self, reference: str) -> tuple[Media, ...]:
        """The media a reference means, not yet opened. Raises BadInput."""
        ...


def checked(row: RawRow) -> RawRow | Refused:
    """The row, refused when its query or target is empty or holds text that no model can be shown."""
    for side, reason in ((row.query, "empty_query"), (row.target, "empty_target")):
        if side.empty:
            return row.refuse(reason, f"{side.field} of row {row.row} of {row.file} is empty")
        try:
            check_text(side.text, "text")
        except BadInput as error:
            return row.refuse(error.reason, f"{side.field} of row {row.row} of {row.file}: {error.detail}")
    return row


def place_of(file: str, row: int) -> str:
    """`file.parquet#17`"""
    return f"{file.rpartition('/')[2]}#{row}"
