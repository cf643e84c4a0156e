"""The report of a data set: one HTML file that needs no network, no script and no other file.

Guarantees: every number is counted over the shards; what a model or a source wrote is escaped, and a content policy
forbids any script but the report's own. Geometry is computed here, drawn by `templates/report.html.jinja`.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from schemas.recipe import Recipe
from umer1_core.publishing.funnel import FunnelRow, check_totals, funnel
from umer1_core.publishing.gallery import draw_pairs, draw_rejections
from umer1_core.publishing.ledger import ledger
from umer1_core.publishing.parity import parity
from umer1_core.query import connect, rows, scan
from umer1_core.scores import ROWS, SCORES, columns
from umer1_core.store import Store

REPORT = "report/index.html"
_COLORS = 8  # colours of reasons in the style sheet; rarer reasons share the last
_BINS = 32
_LABEL = 40  # height of a block's two lines in the flow
# What became of generated tokens: outcome, words, colour.
_SPENT = (
    ("useful", "useful, in sides that were kept", "kept"),
    ("rejected", "rejected by the filters", "r0"),
    ("cut", "cut at the token limit, asked for again", "r3"),
    ("loop", "looping, asked for again", "r1"),
    ("malformed", "without the form, asked for again", "r2"),
    ("failed", "failed requests", "r7"),
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar, in percent of its width. `tone` is the style sheet's name of its colour."""

    label: str
    tone: str
    count: int
    percent: float


@dataclass(frozen=True, slots=True)
class Node:
    """A block of the flow. `from_y`: where its ribbon leaves the block before; `label_y`: its middle."""

    label: str
    tone: str
    count: int
    column: int
    y: float
    height: float
    from_y: float
    label_y: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bins of equal width, the last one open. Heights are in percent of the tallest bin."""

    title: str
    width: int
    bars: tuple[tuple[int, int, float, float], ...]  # kept, dropped, and their heights
    ticks: tuple[tuple[float, str], ...]

    @property
    def empty(self) -> bool:
        return not any(kept + dropped for kept, dropped, _, _ in self.bars)


def write_report(store: Store, recipe: Recipe, seed: int = 0) -> str:
    """Write the report beside the data; returns where it is."""
    rows_by_source = funnel(store)
    tones = reason_tones(rows_by_source)
    account = ledger(store)
    page = render(
        about=_about(store, recipe),
        total=_total(rows_by_source),
        ledger=account,
        spent=[line for line in _SPENT if account["outcomes"][line[0]]["requests"]],
        tokens=token_bar(account),
        tokens_by_source=[(source, part, token_bar(part)) for source, part in account["by_source"].items()],
        sources=[(row, source_bar(row, tones)) for row in rows_by_source],
        flow=flow(_total(rows_by_source), tones),
        tones=tones,
        broken=check_totals(rows_by_source),
        parity=parity(rows_by_source, recipe.miniature is not None),
        rl_table=(store.read_json("manifest.json") or {}).get("rl_table", []),
        histograms=[
            histogram(store, "reasoning_tokens", "Reasoning tokens"),
            histogram(store, "completion_tokens", "Completion tokens"),
        ],
        pairs=draw_pairs(store, seed),
        rejected=draw_rejections(store, seed),
        scores=score_table(store.read_json(SCORES)),
    )
    store.write_bytes(REPORT, page.encode())
    return f"{store.root}/{REPORT}"


def render(**facts: Any) -> str:
    """The page. Autoescape is on for everything but the report's own style and script."""
    environment = Environment(
        loader=PackageLoader("umer1_core.publishing"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.lstrip_blocks = True
    environment.filters |= {"n": _number, "short": _short, "percent": _percent, "words": _words}
    style, script = (environment.get_template(f"report.{kind}.jinja").render() for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.jinja").render(
        style=Markup(style), script=Markup(script), script_hash=digest, **facts
    )


def reason_tones(rows_by_source: Sequence[FunnelRow]) -> dict[str, str]:
    """A colour for each reason, the most frequent first."""
    counts: Counter[str] = Counter()
    for row in rows_by_source:
        counts.update(row.dropped)
    return {reason: f"r{min(i, _COLORS - 1)}" for i, (reason, _) in enumerate(counts.most_common())}


def source_bar(row: FunnelRow, tones: dict[str, str]) -> list[Segment]:
    """Kept, dropped by reason and rejected at sampling, of the rows that were drawn. Widths add up to 100."""
    whole = row.pairs + sum(row.rejected.values())
    parts = [("kept", "kept", row.kept, float(row.kept))]
    parts += [(reason, tones[reason], n, share) for reason, n, share in _shared(row)]
    parts += [("rejected at sampling", "rejected", sum(row.rejected.values()), float(sum(row.rejected.values())))]
    return [Segment(label, tone, n, 100 * size / whole) for label, tone, n, size in parts if n and whole]


def token_bar(account: dict[str, Any]) -> list[Segment]:
    """The generated tokens of a ledger's account by what became of them. Widths add up to 100."""
    whole = max(1, account["completion_tokens"])
    counts = [(words, tone, account["outcomes"][outcome]["completion_tokens"]) for outcome, words, tone in _SPENT]
    return [Segment(words, tone, n, 100 * n / whole) for words, tone, n in counts if n]


def flow(total: FunnelRow, tones: dict[str, str], height: float = 240, gap: float = 12) -> list[Node]:
    """Rows read, pairs sampled, pairs kept, and where the others left; heights in proportion to rows."""
    scale = height / max(total.read, 1)
    rejected = sum(total.rejected.values())
    second = [
        ("pairs sampled", "pairs", total.pairs, float(total.pairs)),
        ("rejected at sampling", "rejected", rejected, float(rejected)),
        ("not drawn (over the limit)", "muted", total.not_drawn, float(total.not_drawn)),
    ]
    third = [("cold start", "kept", total.kept, float(total.kept))]
    third += [(_words(reason), tones[reason], n, share) for reason, n, share in _shared(total)]
    first = Node("rows read", "pairs", total.read, 0, 0, height, 0, height / 2)
    return [first, *_column(1, second, scale, gap), *_column(2, third, scale, gap)]


def histogram(store: Store, column: str, title: str) -> Histogram:
    """Of the annotated sides, kept and dropped; the bins end where 99.5 % of the sides lie."""
    with connect() as connection:
        scan(connection, store, "verdicts", [column, "kept"])
        (top,) = rows(connection, f"SELECT quantile_cont({column}, 0.995) AS top FROM verdicts WHERE {column} > 0")
        width = _nice_width(float(top["top"] or 0) / _BINS)
        counted = rows(
            connection,
            f"SELECT least({column} // {width}, {_BINS - 1})::INT AS bin, count(*) FILTER (kept) AS kept,"
            f" count(*) FILTER (NOT kept) AS dropped FROM verdicts WHERE {column} > 0 GROUP BY bin",
        )
    bins = {row["bin"]: (int(row["kept"]), int(row["dropped"])) for row in counted}
    used = min(max(bins, default=0) + 1, _BINS)
    pairs = [bins.get(i, (0, 0)) for i in range(used)]
    tallest = max((kept + dropped for kept, dropped in pairs), default=0) or 1
    bars = tuple((kept, dropped, 100 * kept / tallest, 100 * dropped / tallest) for kept, dropped in pairs)
    ticks = tuple((100 * i / used, _number(i * width)) for i in range(0, used, max(1, used // 5)))
    return Histogram(title, width, bars, ticks)


def score_table(scores: dict[str, Any] | None) -> list[tuple[str, list[float]]]:
    """hit@1 by mode, a line for each way of scoring; nothing where nothing is scored yet."""
    return [
        (
            f"{column.student}, {'all sources pooled' if column.pooled else 'mean over sources'}",
            [float(column.hits[mode]) for mode in ROWS],
        )
        for column in columns(scores or {})
    ]


def _about(store: Store, recipe: Recipe) -> dict[str, Any]:
    manifest = store.read_json("manifest.json") or store.read_json("version.json") or {}
    created = manifest.get("created")
    return {
        "name": recipe.name,
        "version": manifest.get("version", manifest.get("number", "")),
        "created": datetime.fromisoformat(created).strftime("%-d %B %Y, %H:%M %Z") if created else "",
        "data_hash": manifest.get("data_hash", ""),
        "annotator": recipe.annotation.model.rstrip("/").rsplit("/", 1)[-1],
        "annotator_full": recipe.annotation.model,
        "miniature": recipe.miniature is not None,
        "validated": (store.read_json("_VALIDATED.json") or {}).get("data_hash") == manifest.get("data_hash", ""),
    }


def _total(rows_by_source: Sequence[FunnelRow]) -> FunnelRow:
    def add(field: str) -> int:
        return sum(getattr(row, field) for row in rows_by_source)

    rejected: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for row in rows_by_source:
        rejected.update(row.rejected)
        dropped.update(row.dropped)
    return FunnelRow(
        "all sources",
        "",
        add("read"),
        add("not_drawn"),
        dict(rejected.most_common()),
        add("pairs"),
        add("kept"),
        dict(dropped.most_common()),
        add("dropped_pairs"),
        add("cold_start"),
        add("rl"),
    )


def _shared(row: FunnelRow) -> list[tuple[str, int, float]]:
    """Reasons with their counts and sizes; a pair with several reasons is shared among them."""
    whole = sum(row.dropped.values()) or 1
    return [
        (reason, n, row.dropped_pairs * n / whole)
        for reason, n in sorted(row.dropped.items(), key=lambda item: -item[1])
    ]


def _column(column: int, parts: list[tuple[str, str, int, float]], scale: float, gap: float) -> list[Node]:
    nodes: list[Node] = []
    y = from_y = 0.0
    for label, tone, count, size in parts:
        if not count:
            continue
        height = max(size * scale, 1.5)
        if nodes:
            y = max(y + gap, nodes[-1].label_y + _LABEL - height / 2)
        nodes.append(Node(label, tone, count, column, y, height, from_y, y + height / 2))
        y, from_y = y + height, from_y + size * scale
    return nodes


def _nice_width(width: float) -> int:
    """1, 2 or 5 times a power of ten."""
    steps = (factor * 10**power for power in range(7) for factor in (1, 2, 5))
    return next((step for step in steps if step >= width), 1)


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _short(value: float) -> str:
    """Three digits and a unit."""
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e4, " k")):
        if value >= size:
            scaled = value / (1e3 if unit == " k" else size)
            return f"{scaled:.3g}{unit}" if scaled < 1000 else f"{scaled:.0f}{unit}"
    return f"{value:,.0f}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _words(reason: str) -> str:
    return reason.replace("_", " ")
