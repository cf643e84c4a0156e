"""Publishing and validating UME-R1's 1.76 M pairs: time of two cores and memory, on synthetic rows of its counts.

`.venv/bin/python -m tests.bench.publishing` runs a tenth of it (`--pairs`, `--chars` change size and width) and prints
what each part took. The reference is the budget for the size: ten minutes and 2 GB for all 1.76 M pairs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
from blake3 import blake3
from PIL import Image

from schemas.recipe import Annotation, Recipe, Validation
from schemas.sources import VidoreSource
from schemas.tables import TABLES
from tests.bench.line import Line
from umer1_core.loops import COUNTS
from umer1_core.publishing.publish import publish
from umer1_core.publishing.rl import publish_rl
from umer1_core.sampling.draw import draw
from umer1_core.sampling.rows import RawRow, RawSide
from umer1_core.store import Store
from umer1_core.upstream import PUBLISHED
from umer1_core.versions import Version

_VISRAG = {
    "PlotQA": 56_192,
    "ArxivQA": 25_856,
    "InfoVQA": 17_664,
    "MP-DocVQA": 10_624,
    "SlideVQA": 8_192,
    "ChartQA": 4_224,
}
_WHOLE = sum(each.sampled for each in PUBLISHED.values())
_BUDGET_S, _BUDGET_GB = 600.0, 2.0
_PAIR_ROWS, _SIDE_ROWS = 20_000, 8_192
_STEP = 1_000_003  # a prime: sides are numbered in steps of it, so that a shard mixes all sources

# `n`: the pair; `i`: the side, 2 n for a query and 2 n + 1 for a target.
_SIDE_OF = """
struct_pack(text := 'side ' || i || ' ' || left(repeat(md5(i::VARCHAR), 4), 120), media := CASE WHEN i % 2 = 0 THEN
[struct_pack(kind := 'image', uri := '<PICTURE>', member := '', "offset" := -1::BIGINT,
frames := []::VARCHAR[], content_hash := md5('m' || i) || md5('n' || i), size := <SIZE>::BIGINT, width := 64,
height := 48, notes := []::VARCHAR[])] ELSE [] END)
"""
_SETUP = f"""
CREATE MACRO key_of(i) AS md5('side' || i);
CREATE MACRO side_of(i, source) AS {_SIDE_OF};
CREATE MACRO words(i, chars) AS
    left(array_to_string(list_transform(range(chars // 32 + 1), lambda x: md5(i || x::VARCHAR)), ' '), chars);
CREATE TABLE sources (source VARCHAR, modality VARCHAR, first BIGINT, pairs BIGINT, kept BIGINT);
CREATE MACRO located(n_from, n_to) AS TABLE
    SELECT n, source, modality, (n - first + 1) * kept // pairs > (n - first) * kept // pairs AS kept
    FROM (SELECT unnest(range(n_from, n_to)) AS n) ASOF JOIN sources ON n >= first;
CREATE MACRO sides_of_shard(k_from, k_to, whole) AS TABLE
    SELECT i, source, modality, k.kept OR i % 2 = 0 AS kept
    FROM (SELECT (unnest(range(k_from, k_to)) * {_STEP}) % whole AS i)
    ASOF JOIN (SELECT *, first * 2 AS start FROM sources) s ON i >= start
    CROSS JOIN LATERAL (SELECT (i // 2 - first + 1) * s.kept // pairs > (i // 2 - first) * s.kept // pairs AS kept) k;
"""
_PAIRS = """
SELECT md5('pair' || n) AS pair_id, source, 'rows.parquet#' || n AS "row", modality, key_of(2 * n) AS query_key,
       key_of(2 * n + 1) AS target_key, side_of(2 * n, source) AS query,
       side_of(2 * n + 1, source) AS target, [] AS negatives
FROM located($1, $2)
"""
_SIDES = """
SELECT key_of(i) AS side_key, source, modality, 1 AS uses, side.text AS text, side.media AS media
FROM (SELECT *, side_of(i, source) AS side FROM sides_of_shard($1, $2, $3))
"""
_ANNOTATIONS = """
SELECT key_of(i) AS side_key, 0 AS sample, source,
       '<think>' || words(i, $4) || '</think><answer>' || left(md5(i::VARCHAR), 20) AS completion,
       'stop' AS finish_reason, 900 AS prompt_tokens, $4 // 4 AS completion_tokens, 1 AS attempts, 0 AS round,
       1.0 AS seconds, 'bench-annotator' AS annotator, '' AS reason, '' AS error
FROM sides_of_shard($1, $2, $3)
"""
_VERDICTS = f"""
SELECT key_of(i) AS side_key, 0 AS sample, source, kept, CASE WHEN kept THEN [] ELSE ['repetition'] END AS reasons,
       []::VARCHAR[] AS flags, []::VARCHAR[] AS form, words(i, $4) AS reasoning, left(md5(i::VARCHAR), 20) AS summary,
       $4 // 4 AS reasoning_tokens, 0 AS repeat_period, 0.0 AS repeat_count, 0 AS repeat_tokens,
       {[0] * len(COUNTS)} AS repeat_profile, {[0] * len(COUNTS)} AS repeat_periods,
       0 AS burst_chars, 0 AS commentary_chars, 0.0 AS prompt_copy, 20 AS summary_chars,
       $4 // 4 AS completion_tokens, 1 AS uses
FROM sides_of_shard($1, $2, $3)
"""


def lines(pairs: int = _WHOLE // 10, chars: int = 200) -> Iterator[Line]:
    """Of the whole: `pairs` in the published proportions, with `chars` characters of reasoning a side."""
    with tempfile.TemporaryDirectory() as folder:
        make(Store(f"{folder}/v1"), pairs, chars)
        command = [sys.executable, "-m", "tests.bench.publishing", "--root", f"{folder}/v1"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    share, name = pairs / _WHOLE, f"data: {pairs:,} pairs"
    seconds = sum(measured["parts"][part]["seconds"] for part in ("publish", "validate"))
    yield Line(f"{name}, published and validated", seconds, _BUDGET_S * share, "s", "budget", 1.0, False)
    yield Line(f"{name}, peak memory", measured["peak_gb"], _BUDGET_GB, "GB", "budget", 1.0, False)
    yield Line(f"{name}, drawn", measured["parts"]["draw"]["seconds"], 60 * share, "s", "a minute", 1.0, False)
    yield Line(f"{name}, drawn: memory", measured["parts"]["draw"]["peak_gb"], 1.0, "GB", "budget", 1.0, False)
    yield Line(f"{name}, RL set made", measured["parts"]["rl"]["seconds"], 60 * share, "s", "a minute", 1.0, False)


def make(store: Store, pairs: int, chars: int) -> None:
    """Every table up to `verdicts`, with the published counts by source in proportion."""
    store.write_json("version.json", {"number": 1, "parent": "", "mode": "build"})
    with duckdb.connect(config={"memory_limit": "1GB"}) as connection:
        picture = Path(store.at("picture.jpg"))
        Image.new("RGB", (64, 48)).save(picture)
        connection.execute(_SETUP.replace("<PICTURE>", str(picture)).replace("<SIZE>", str(picture.stat().st_size)))
        whole = 0
        for source, modality, sampled, released in _sources():
            count = max(64, round(sampled * pairs / _WHOLE))
            row = [source, modality, whole, count, count * released // sampled]
            connection.execute("INSERT INTO sources VALUES (?, ?, ?, ?, ?)", row)
            _make_pairs(store, connection, source, modality, range(whole, whole + count))
            whole += count
        for number, first in enumerate(range(0, 2 * whole, _SIDE_ROWS)):
            bounds = [first, min(first + _SIDE_ROWS, 2 * whole), 2 * whole]
            for table, sql in (("sides", _SIDES), ("annotations", _ANNOTATIONS), ("verdicts", _VERDICTS)):
                parameters = bounds if table == "sides" else [*bounds, chars]
                made = connection.sql(sql, params=parameters).to_arrow_table()
                store.write_shard(table, f"{number:05d}", made.select(TABLES[table].names))


def _make_pairs(
    store: Store, connection: duckdb.DuckDBPyConnection, source: str, modality: str, numbers: range
) -> None:
    slug = source.replace("/", "-")
    for part, first in enumerate(range(numbers.start, numbers.stop, _PAIR_ROWS)):
        made = connection.sql(_PAIRS, params=[first, min(first + _PAIR_ROWS, numbers.stop)]).to_arrow_table()
        store.write_shard("pairs", f"{slug}-{part:05d}", made.select(TABLES["pairs"].names))
    counts = {source: {"read": len(numbers), "not_drawn": 0, "pairs": len(numbers), "rejected": {}}}
    store.write_shard("rejections", slug, [], modality=modality, by_source=counts)


def _sources() -> Iterator[tuple[str, str, int, int]]:
    """Name, modality, sampled and released pairs; VisRAG as its own sources."""
    modalities = {"mmeb": "image", "llava_hound": "video", "vidore": "visdoc"}
    for each in PUBLISHED.values():
        if each.source == "visrag":
            yield from ((f"visrag/{s}", "visdoc", n, round(n * each.kept_share)) for s, n in _VISRAG.items())
        else:
            yield each.source, modalities[each.source.partition("/")[0]], each.sampled, each.released


def measure(root: str) -> dict[str, object]:
    """Publish, draw the RL set once more by itself, validate; seconds and CPU seconds of each, and the peak memory."""
    from umer1_core.validation.validate import validate

    store = Store(root)
    recipe = Recipe(
        name="bench", output=root, sources=[VidoreSource(root="/data")], annotation=Annotation(model="bench-annotator")
    )
    version = Version(root, 1, "", "build", "", datetime.now(UTC).isoformat(timespec="seconds"))
    parts: dict[str, dict[str, float]] = {}
    share = sum(entry.rows for entry in store.entries("pairs")) / _WHOLE
    drawn = _timed(parts, "draw", lambda: _drawn(share, 1))
    if drawn != _drawn(share, -1):
        raise AssertionError("the draw depends on the order of the rows")
    manifest = _timed(parts, "publish", lambda: publish(version, recipe, "bench-annotator"))
    _timed(parts, "rl", lambda: publish_rl(store, recipe.publishing, recipe.seed, "again"))
    outcome = _timed(parts, "validate", lambda: validate(store, Validation(), manifest["data_hash"]))
    return {
        "parts": parts,
        "peak_gb": _peak_gb(),
        "cold_start": sum(row["cold_start"] for row in manifest["funnel"]),
        "rl": sum(row["rl"] for row in manifest["funnel"]),
        "rl_table": [[r["modality"], r["dataset"], r["source"], r["asked"], r["taken"]] for r in manifest["rl_table"]],
        "failures": [failure.sentence for failure in outcome.failures][:5],
    }


def _drawn(share: float, step: int) -> dict[str, str]:
    """The published draw of every source, read forwards (step 1) or backwards (-1): a hash of the pairs by source."""
    chosen = {}
    for each in PUBLISHED.values():
        numbers = range(max(64, round(each.rows * share)))[::step]
        sides = (RawSide("query", "", "qry"), RawSide("target", "", "pos"))
        rows = (RawRow(each.source, f"row {number}", "rows.parquet", number, *sides) for number in numbers)
        drawn = draw(rows, max(64, round(each.sampled * share)), 0)
        chosen[each.source] = blake3("".join(sorted(row.pair_id for row in drawn.rows)).encode()).hexdigest()
    return chosen


def _timed(parts: dict[str, dict[str, float]], name: str, run: Callable[[], object]) -> object:
    started, cpu = time.perf_counter(), time.process_time()
    result = run()
    took = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu, "peak_gb": _peak_gb()}
    parts[name] = {part: round(value, 2) for part, value in took.items()}
    return result


def _peak_gb() -> float:
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 2**20, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=_WHOLE // 10)
    parser.add_argument("--chars", type=int, default=200)
    parser.add_argument("--root", help="Only measure, on a data set that `make` wrote")
    chosen = parser.parse_args()
    if chosen.root:
        sys.stdout.write(json.dumps(measure(chosen.root)) + "\n")
        return
    from tests.bench.__main__ import render

    for line in lines(chosen.pairs, chosen.chars):
        sys.stdout.write(render(line) + "\n")


if __name__ == "__main__":
    main()
