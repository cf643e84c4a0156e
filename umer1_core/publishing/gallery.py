"""The pairs a person looks at: drawn by seed, spread over sources and reasons, with thumbnails.

Guarantees: only the drawn rows are read whole; a picture becomes a thumbnail inside the report and is never copied
otherwise; one that cannot be read is said to be missing.
"""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import duckdb

from umer1_core.errors import BadInput
from umer1_core.media import choose_frames, open_image, read_frames, read_image
from umer1_core.pairs import Media, Side, side_from_record
from umer1_core.publishing.judged import choose_samples, collect_refusals, judge_pairs
from umer1_core.query import connect, rows, scan
from umer1_core.store import Store

PICTURE, FRAME, FRAMES, PICTURES = 320, 160, 4, 3
_LONG = 20_000  # characters of one text that the report holds at most


@dataclass(frozen=True, slots=True)
class Picture:
    """`frames`: data URLs, one of an image and up to four of a clip; none when it cannot be read."""

    kind: str
    where: str
    frames: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SideCard:
    role: str
    text: str
    pictures: tuple[Picture, ...]
    reasons: tuple[str, ...]
    summary: str
    reasoning: str
    raw: str
    tokens: int


@dataclass(frozen=True, slots=True)
class PairCard:
    """`status`: kept, or dropped with the reasons of either side."""

    pair_id: str
    source: str
    modality: str
    status: str
    reasons: tuple[str, ...]
    sides: tuple[SideCard, ...]


@dataclass(frozen=True, slots=True)
class RejectedRow:
    source: str
    row: str
    reason: str
    detail: str


# One of every source (and reason) first, then a second of each, and so on: rare ones are seen too.
_DRAW = """
SELECT pair_id FROM (
    SELECT *, row_number() OVER (PARTITION BY source, reasons ORDER BY place) AS turn
    FROM (SELECT *, md5(? || pair_id) AS place FROM judged WHERE kept = ?) drawn
    LEFT JOIN (SELECT pair_id, string_agg(reason, ' ' ORDER BY reason) AS reasons FROM refusals GROUP BY pair_id)
    USING (pair_id)
) ORDER BY turn, place LIMIT ?
"""
_SAMPLES = """
SELECT * FROM verdicts LEFT JOIN annotations USING (side_key, sample)
WHERE side_key IN (SELECT unnest(?)) ORDER BY side_key, sample
"""
_DRAW_REJECTED = """
SELECT source, "row", reason, detail FROM (
    SELECT *, row_number() OVER (PARTITION BY source, reason ORDER BY place) AS turn
    FROM (SELECT *, md5(? || source || "row") AS place FROM rejections)
) ORDER BY turn, place LIMIT ?
"""


def draw_pairs(store: Store, seed: int, kept: int = 24, dropped: int = 24) -> list[PairCard]:
    """Kept and dropped pairs in turn, so that the first screen already shows both."""
    with connect() as connection:
        scan(connection, store, "pairs")
        scan(connection, store, "verdicts")
        scan(connection, store, "annotations", ["side_key", "sample", "completion", "error"])
        judge_pairs(connection)
        choose_samples(connection)
        collect_refusals(connection)
        good = _cards(connection, _draw(connection, seed, True, kept), "kept")
        bad = _cards(connection, _draw(connection, seed, False, dropped), "dropped")
    longest = max(len(good), len(bad))
    return [cards[i] for i in range(longest) for cards in (good, bad) if i < len(cards)]


def draw_rejections(store: Store, seed: int, count: int = 24) -> list[RejectedRow]:
    """Rows that never became a pair."""
    with connect() as connection:
        scan(connection, store, "rejections")
        return [RejectedRow(**row) for row in rows(connection, _DRAW_REJECTED, [str(seed), count])]


def thumbnail(data: bytes, edge: int) -> str:
    """A data URL of a JPEG no larger than `edge` pixels."""
    image = open_image(data)
    image.thumbnail((edge, edge))
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=78, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


def picture(media: Media) -> Picture:
    """An image as one thumbnail, a clip as a strip of four frames."""
    try:
        if media.kind == "image":
            return Picture("image", media.where, (thumbnail(read_image(media), PICTURE),))
        frames = read_frames(media)
        chosen = [frames[int(i)] for i in choose_frames([str(i) for i in range(len(frames))], FRAMES)]
        return Picture("video", media.where, tuple(thumbnail(frame, FRAME) for frame in chosen))
    except BadInput as error:
        return Picture(media.kind, media.where, (), error.detail)


def _draw(connection: duckdb.DuckDBPyConnection, seed: int, kept: bool, count: int) -> list[str]:
    return [str(row["pair_id"]) for row in rows(connection, _DRAW, [str(seed), kept, count])]


def _cards(connection: duckdb.DuckDBPyConnection, identifiers: list[str], status: str) -> list[PairCard]:
    pairs = {
        p["pair_id"]: p
        for p in rows(connection, "SELECT * FROM pairs WHERE pair_id IN (SELECT unnest(?))", [identifiers])
    }
    keys = [pair[f"{role}_key"] for pair in pairs.values() for role in ("query", "target")]
    samples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows(connection, _SAMPLES, [keys]):
        samples[row["side_key"]].append(row)
    chosen = rows(connection, "SELECT * FROM choices WHERE pair_id IN (SELECT unnest(?))", [identifiers])
    choices = {(row["pair_id"], row["role"]): int(row["sample"]) for row in chosen}
    return [_card(pairs[each], samples, choices, status) for each in identifiers]


def _card(
    pair: dict[str, Any], samples: dict[str, list[dict[str, Any]]], choices: dict[tuple[str, str], int], status: str
) -> PairCard:
    sides = tuple(
        _side(
            role,
            side_from_record(pair[role]),
            samples.get(pair[f"{role}_key"], []),
            choices.get((pair["pair_id"], role)),
        )
        for role in ("query", "target")
    )
    reasons = tuple(dict.fromkeys(reason for side in sides for reason in side.reasons))
    return PairCard(pair["pair_id"], pair["source"], pair["modality"], status, reasons, sides)


def _side(role: str, side: Side, samples: list[dict[str, Any]], choice: int | None) -> SideCard:
    """The sample that the pair takes; of a side that is kept without it or dropped, the first kept or the first."""
    verdict = next((row for row in samples if row["sample"] == choice), None)
    verdict = verdict or next((row for row in samples if row["kept"]), samples[0] if samples else None)
    against = () if verdict is None or verdict["kept"] else (reason for row in samples for reason in row["reasons"])
    pictures = tuple(picture(media) for media in side.media[:PICTURES])
    text = side.text.strip()[:_LONG]
    if verdict is None:
        return SideCard(role, text, pictures, ("no_verdict",), "", "", "", 0)
    raw = "" if verdict["kept"] else (verdict["completion"] or verdict["error"] or "")[:_LONG]
    return SideCard(
        role,
        text,
        pictures,
        tuple(dict.fromkeys(against)),
        verdict["summary"] or "",
        (verdict["reasoning"] or "")[:_LONG],
        raw if not verdict["reasoning"] else "",
        verdict["completion_tokens"] or 0,
    )
