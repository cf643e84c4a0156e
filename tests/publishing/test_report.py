"""The report shows every number, both kinds of pairs and their pictures, and trusts no text."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import asdict
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from schemas.recipe import Recipe
from umer1_core.media import clip_from_folder, describe
from umer1_core.pairs import Media, Pair, Side, pair_id, pair_record, side_record
from umer1_core.publishing.funnel import FunnelRow, check_totals, funnel
from umer1_core.publishing.gallery import draw_pairs
from umer1_core.publishing.ledger import ledger
from umer1_core.publishing.report import flow, histogram, source_bar, token_bar, write_report
from umer1_core.store import Store, content_hash
from umer1_core.template import training_prompt, training_response

HOSTILE = "<script>alert('owned')</script><img src=x onerror=alert(1)>"
SOURCES = ("mmeb/OK-VQA", "mmeb/MSCOCO", "llava_hound/qa")


def recipe(**changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "name": "specimen",
        "output": "unused",
        "sources": [{"kind": "mmeb", "root": "unused", "limit": 1234}],
        "annotation": {"model": "org/teacher", "endpoints": ["http://gpu-1:8000/v1"]},
    }
    return Recipe.model_validate(fields | changes)


def published(root: Path, per_source: int = 6) -> Store:
    """In every source the last pair's target is dropped, written by a hostile model; one row was rejected.

    The first side of each took two attempts, of which the first was cut.
    """
    store = Store(str(root / "v1"))
    pairs = [_pair(root, source, number) for source in SOURCES for number in range(per_source)]
    sides = [(pair.source, side) for pair in pairs for side in (pair.query, pair.target)]
    dropped = {pair.target.key for pair in pairs if pair.target.text.endswith(f" {per_source - 1}")}
    kept = [pair for pair in pairs if pair.target.key not in dropped]
    store.write_shard("pairs", "00000", [pair_record(pair) for pair in pairs])
    for source in SOURCES:
        shard = source.replace("/", "-")
        rejected = [{"source": source, "row": "9", "reason": "media_missing", "detail": HOSTILE}]
        counts = {source: {"read": per_source + 3, "not_drawn": 2}}
        store.write_shard("rejections", shard, rejected, modality="image", by_source=counts)
    store.write_shard("sides", "00000", [_side(source, side) for source, side in sides])
    first = {next(side.key for name, side in sides if name == source) for source in SOURCES}
    annotations = [_annotation(source, side) | {"attempts": 1 + (side.key in first)} for source, side in sides]
    store.write_shard("annotations", "00000", annotations)
    store.write_shard("attempts", "00000", [each for row in annotations for each in _attempts(row)])
    store.write_shard("verdicts", "00000", [_verdict(source, side, side.key not in dropped) for source, side in sides])
    store.write_shard("cold_start", "00000", [_row(pair) for pair in kept])
    store.write_shard("rl", "00000", [])
    collect(store)
    return store


def collect(store: Store) -> dict[str, Any]:
    """The manifest as `publish` leaves it."""
    rows = funnel(store)
    return store.collect_manifest(
        name="specimen",
        version=1,
        created="2026-11-21T05:00:00+00:00",
        data_hash=content_hash([*store.entries("cold_start"), *store.entries("rl")]),
        annotator={"model": "org/teacher", "fingerprint": "abc"},
        code_version="0.1.0",
        prompt_versions={"annotation": "appendix-d/1", "training": "section-3.2/1", "clean": "clean/1"},
        funnel=[asdict(row) for row in rows],
        ledger=ledger(store),
        broken_totals=check_totals(rows),
    )


def _pair(root: Path, source: str, number: int) -> Pair:
    media = _clip(root, number) if source.startswith("llava") else _image(root, number)
    modality = "video" if media.kind == "video" else "image"
    query = Side(f"question {source} {number} {HOSTILE}", (describe(media),))
    return Pair(pair_id(source, str(number)), source, modality, query, Side(f"answer {source} {number}"))


def _image(root: Path, number: int) -> Media:
    path = root / f"{number}.png"
    Image.new("RGB", (900, 600), (40 * number, 120, 200)).save(path)
    return Media("image", str(path))


def _clip(root: Path, number: int) -> Media:
    folder = root / f"clip-{number}"
    folder.mkdir(exist_ok=True)
    for frame in range(9):
        Image.new("RGB", (400, 300), (25 * frame, 40 * number, 90)).save(folder / f"{frame}.jpg")
    return clip_from_folder(folder, 8)


def _side(source: str, side: Side) -> dict[str, Any]:
    return {"side_key": side.key, "source": source, "modality": "image", "uses": 1, **side_record(side)}


def _annotation(source: str, side: Side) -> dict[str, Any]:
    return {
        "side_key": side.key,
        "sample": 0,
        "source": source,
        "completion": f"{HOSTILE} a completion",
        "finish_reason": "stop",
        "prompt_tokens": 50,
        "completion_tokens": 20,
        "attempts": 1,
        "round": 0,
        "seconds": 0.1,
        "annotator": "abc",
        "error": "",
    }


def _attempts(row: dict[str, Any]) -> list[dict[str, Any]]:
    shared = {name: row[name] for name in ("side_key", "sample", "source", "prompt_tokens")}
    cut = [{"attempt": 1, "outcome": "cut", "completion_tokens": 30, "completion": HOSTILE}]
    ok = {"attempt": row["attempts"], "outcome": "ok", "completion_tokens": row["completion_tokens"]}
    return [shared | attempt for attempt in (*cut[: row["attempts"] - 1], ok)]


def _verdict(source: str, side: Side, kept: bool) -> dict[str, Any]:
    return {
        "side_key": side.key,
        "sample": 0,
        "source": source,
        "kept": kept,
        "reasons": [] if kept else ["no_think", "repetition"],
        "reasoning": f"thought {HOSTILE} " * 12 if kept else "",
        "summary": f"summary {HOSTILE}" if kept else "",
        "reasoning_tokens": 15 if kept else 0,
        "repeat_period": 0,
        "repeat_count": 0.0,
        "repeat_tokens": 0,
        "completion_tokens": 20,
        "uses": 1,
    }


def _row(pair: Pair) -> dict[str, Any]:
    row: dict[str, Any] = {
        "pair_id": pair.pair_id,
        "source": pair.source,
        "modality": pair.modality,
        "query_key": pair.query.key,
        "target_key": pair.target.key,
        "negatives": [],
    }
    for role, side in (("query", pair.query), ("target", pair.target)):
        row[f"{role}_prompt"] = training_prompt(side.text)
        row[f"{role}_media"] = side_record(side)["media"]
        row[f"{role}_response"] = training_response("thought", "summary")
    return row


class Page(HTMLParser):
    """Tags and attributes as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [a for name, a in self.tags if name == tag and all(a.get(k) == v for k, v in wanted.items())]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return published(tmp_path)


def html_of(store: Store, **changes: Any) -> str:
    return Path(write_report(store, recipe(**changes))).read_text()


def test_text_of_models_and_sources_is_escaped_and_no_foreign_script_may_run(store: Store) -> None:
    html = html_of(store)

    page = Page(html)
    assert "&lt;script&gt;alert(" in html, "the hostile text must be in the report, or this proves nothing"
    assert len(page.all("script")) == 1
    assert not any(attribute.startswith("on") for _, attributes in page.tags for attribute in attributes)
    assert "script-src 'sha256-" in page.all("meta")[2]["content"]


def test_the_report_is_one_file_that_loads_nothing(store: Store) -> None:
    page = Page(html_of(store))

    sources = [a["src"] for _, a in page.tags if "src" in a]
    assert sources and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not page.all("link")


def test_pictures_appear_as_thumbnails_and_clips_as_four_frames(store: Store) -> None:
    page = Page(html_of(store))

    def sizes(**wanted: str) -> set[tuple[int, int]]:
        encoded = [image["src"].partition(",")[2] for image in page.all("img", **wanted)]
        return {Image.open(io.BytesIO(base64.b64decode(data))).size for data in encoded}

    assert sizes(alt="query picture") == {(320, 213)}
    assert sizes(alt="frame 4 of the clip") == {(160, 120)}
    assert len(page.all("img", alt="frame 4 of the clip")) == len(page.all("img", alt="frame 1 of the clip")) == 6


def test_a_picture_that_is_gone_is_said_to_be_missing_instead_of_stopping_the_report(store: Store) -> None:
    for path in Path(store.root).parent.glob("*.png"):
        path.unlink()

    assert "image cannot be read" in html_of(store)


def test_kept_and_dropped_pairs_of_every_source_stand_in_the_gallery_with_their_reasons(store: Store) -> None:
    page = Page(html_of(store))

    articles = page.all("article")
    assert {(a["data-source"], a["data-status"]) for a in articles} == {
        (source, status) for source in SOURCES for status in ("kept", "dropped")
    }
    assert {a["data-reasons"] for a in articles if a["data-status"] == "dropped"} == {"no_think repetition"}


def test_the_gallery_is_chosen_by_seed_and_spread_over_sources(tmp_path: Path) -> None:
    store = published(tmp_path, per_source=10)

    first, again, other = (draw_pairs(store, seed, kept=6, dropped=3) for seed in (1, 1, 2))

    assert [c.pair_id for c in first] == [c.pair_id for c in again] != [c.pair_id for c in other]
    kept = [card.source for card in first if card.status == "kept"]
    assert sorted(kept) == sorted(SOURCES * 2)


def test_what_a_model_wrote_is_shown_where_nothing_could_be_parsed(store: Store) -> None:
    (card, *_) = [card for card in draw_pairs(store, 0) if card.status == "dropped"]

    target = card.sides[1]
    assert target.reasoning == "" and target.raw.endswith("a completion")


def test_the_numbers_that_matter_stand_in_the_headline(store: Store) -> None:
    text = re.sub(r"<[^>]+>", " ", html_of(store))

    assert re.search(r"15\s+pairs kept, 83\.3 % of those sampled", text)
    assert re.search(r"18\s+pairs sampled of 27 rows read", text)
    assert re.search(r"810\s+tokens generated, 81\.5 % useful", text)


def test_the_account_says_what_became_of_the_tokens_and_leaves_out_what_did_not_happen(store: Store) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html_of(store)))

    assert "useful, in sides that were kept 33 1,650 660 81.5 %" in text
    assert "rejected by the filters 3 150 60 7.4 %" in text
    assert "cut at the token limit, asked for again 3 150 90 11.1 %" in text
    assert "all 39 1,950 810" in text
    assert "looping" not in text and "failed requests" not in text and "taken over" not in text
    for source in SOURCES:
        assert f"{source} 81.5 % useful of 270" in text


def test_the_bar_of_an_account_covers_its_width() -> None:
    tokens = {"useful": 600, "rejected": 200, "cut": 150, "loop": 50, "malformed": 0, "failed": 0}
    account = {"completion_tokens": 1_000, "outcomes": {name: {"completion_tokens": n} for name, n in tokens.items()}}

    bar = token_bar(account)

    assert [part.count for part in bar] == [600, 200, 150, 50]
    assert sum(part.percent for part in bar) == pytest.approx(100)


def test_a_miniature_says_so_and_a_full_run_does_not(store: Store) -> None:
    assert "<b>Miniature.</b>" in html_of(store, miniature={})
    assert "Miniature" not in html_of(store)


def test_scores_appear_once_training_has_written_them(store: Store) -> None:
    assert "hit@1" not in html_of(store)
    modes = {"generative": 0.61, "discriminative": 0.55, "oracle": 0.72, "chance": 0.01}
    store.write_json("scores.json", {"overall": modes, "untrained": modes | {"generative": 0.02}})

    text = html_of(store)

    assert "hit@1" in text and "61.0 %" in text and "untrained" in text


def test_a_data_set_without_pairs_still_has_a_report(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "empty"))
    collect(store)

    assert "There are no pairs." in html_of(store)


ROW = FunnelRow(
    "s", "image", 1000, 200, {"media_missing": 100}, 700, 500, {"no_think": 150, "repetition": 150}, 200, 500, 9
)
TONES = {"no_think": "r0", "repetition": "r1"}


def test_a_bar_covers_its_width_though_a_pair_may_have_two_reasons() -> None:
    segments = source_bar(ROW, TONES)

    assert sum(part.percent for part in segments) == pytest.approx(100)
    assert {part.label: part.count for part in segments}["no_think"] == 150
    assert {part.label: part.percent for part in segments}["no_think"] == pytest.approx(100 * 100 / 800)


def test_the_flow_conserves_rows_and_its_labels_do_not_overlap() -> None:
    nodes = flow(ROW, TONES, height=200)

    for column, whole in ((1, 200), (2, 140)):
        parts = [node for node in nodes if node.column == column]
        assert sum(node.height for node in parts) == pytest.approx(whole)
        gaps = [b.label_y - a.label_y for a, b in pairwise(parts)]
        assert min(gaps) >= 30


def test_a_histogram_counts_every_annotated_side(store: Store) -> None:
    plot = histogram(store, "completion_tokens", "Completion tokens")

    assert sum(kept + dropped for kept, dropped, _, _ in plot.bars) == store.read("verdicts").num_rows == 36
    assert max(high + higher for _, _, high, higher in plot.bars) == pytest.approx(100)
