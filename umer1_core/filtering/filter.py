"""A shard of annotations becomes a shard of verdicts: all reasons and all scores of every completion.

Guarantees: one verdict per sample of a side, sides in the shard's order; a sample that failed is `not_annotated`, and
so is sample 0 of a side without any. Reasons do not hide each other. Scores are stored: other thresholds need no new
generation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from schemas.recipe import Filters
from umer1_core.errors import RecipeError
from umer1_core.filtering.form import form_reasons, was_cut
from umer1_core.filtering.length import reasoning_text, too_long
from umer1_core.filtering.repetition import Run, repetition, strongest_run
from umer1_core.store import ShardEntry, Store
from umer1_core.template import parse_annotation

_BATCH = 256
_EDGES = (0, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192)  # of reasoning tokens; the last bin is open


def filter_shard(store: Store, shard: str, filters: Filters, tokenizer: Tokenizer, fingerprint: str = "") -> ShardEntry:
    """Judge the sides of a shard and write their verdicts; a finished shard is left as it is."""
    if done := store.entry("verdicts", shard, fingerprint):
        return done
    sides = store.read_shard("sides", shard, ["side_key", "source", "uses"]).to_pylist()
    samples = _samples(store, shard)
    asked = [(side, sample) for side in sides for sample in samples.get(side["side_key"], (None,))]
    verdicts: list[dict[str, Any]] = []
    for first in range(0, len(asked), _BATCH):
        batch = asked[first : first + _BATCH]
        verdicts += judge([side for side, _ in batch], [sample for _, sample in batch], filters, tokenizer)
    return store.write_shard("verdicts", shard, verdicts, fingerprint, **summarize(verdicts))


def judge(
    sides: Sequence[dict[str, Any]],
    annotations: Sequence[dict[str, Any] | None],
    filters: Filters,
    tokenizer: Tokenizer,
) -> list[dict[str, Any]]:
    """Verdicts of sides, given an annotation of each or None."""
    texts = [row["completion"] if row else "" for row in annotations]
    whole = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    thoughts = tokenizer.encode_batch_fast([reasoning_text(text) for text in texts], add_special_tokens=False)
    return [
        _verdict(side, row, encoded.ids, len(thought.ids), filters)
        for side, row, encoded, thought in zip(sides, annotations, whole, thoughts, strict=True)
    ]


def summarize(verdicts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The shard's own counts. A side is kept if a sample of it is; tokens are those the annotator generated."""
    kept = [row for row in verdicts if row["kept"]]
    dropped = [row for row in verdicts if not row["kept"]]
    kept_sides = {row["side_key"] for row in kept}
    by_source: dict[str, dict[str, int]] = defaultdict(lambda: {"kept": 0, "dropped": 0})
    for side_key, source in {row["side_key"]: row["source"] for row in verdicts}.items():
        by_source[source]["kept" if side_key in kept_sides else "dropped"] += 1
    lengths = [row["reasoning_tokens"] for row in verdicts if "not_annotated" not in row["reasons"]]
    bins = np.searchsorted(_EDGES, lengths, side="right") - 1
    return {
        "kept": len(kept_sides),
        "kept_samples": len(kept),
        "reasons": dict(sorted(Counter(reason for row in dropped for reason in row["reasons"]).items())),
        "kept_tokens": sum(row["completion_tokens"] for row in kept),
        "dropped_tokens": sum(row["completion_tokens"] for row in dropped),
        "reasoning_tokens": {
            "edges": list(_EDGES),
            "counts": [int(n) for n in np.bincount(bins.astype(np.int64), minlength=len(_EDGES))],
        },
        "by_source": dict(sorted(by_source.items())),
    }


def load_tokenizer(name_or_path: str) -> Tokenizer:
    """A tokenizer from its tokenizer.json, a model's folder, or the hub. Raises RecipeError."""
    path = Path(name_or_path).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise RecipeError(
            f"filters.tokenizer: {path} has no tokenizer.json.",
            "Name a model's folder that has one, a tokenizer.json, or a model on the hub.",
        )
    try:
        return Tokenizer.from_file(str(file)) if file.is_file() else Tokenizer.from_pretrained(name_or_path)
    except Exception as error:  # tokenizers raises nothing more specific
        raise RecipeError(
            f"filters.tokenizer: no tokenizer can be read from {name_or_path}: {error}.",
            "Name a model's folder, a tokenizer.json, or a model that this machine can download from the hub.",
        ) from error


def _samples(store: Store, shard: str) -> Mapping[str, Sequence[dict[str, Any] | None]]:
    """The annotations of each side that has any, by sample."""
    columns = ["side_key", "sample", "completion", "finish_reason", "completion_tokens"]
    samples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in store.read_shard("annotations", shard, columns).to_pylist():
        samples[row["side_key"]].append(row)
    for found in samples.values():
        found.sort(key=lambda row: int(row["sample"]))
    return samples


def _verdict(
    side: dict[str, Any], annotation: dict[str, Any] | None, ids: list[int], reasoning_tokens: int, filters: Filters
) -> dict[str, Any]:
    verdict = {
        "side_key": side["side_key"],
        "sample": annotation["sample"] if annotation else 0,
        "source": side["source"],
        "uses": side["uses"],
        "completion_tokens": annotation["completion_tokens"] if annotation else 0,
    }
    if annotation is None or annotation["finish_reason"] == "error":
        return verdict | _scores(["not_annotated"], "", "", 0, Run())
    finish = annotation["finish_reason"]
    response = parse_annotation(annotation["completion"], truncated=was_cut(finish))
    run = strongest_run(ids, filters.repeat_min_count)
    reasons = [
        *form_reasons(response, finish),
        too_long(reasoning_tokens, filters.max_reasoning_tokens),
        repetition(run, filters.repeat_min_count, filters.repeat_min_tokens),
    ]
    return verdict | _scores(reasons, response.reasoning, response.summary, reasoning_tokens, run)


def _scores(reasons: list[str], reasoning: str, summary: str, reasoning_tokens: int, run: Run) -> dict[str, Any]:
    distinct = list(dict.fromkeys(reason for reason in reasons if reason))
    return {
        "kept": not distinct,
        "reasons": distinct,
        "reasoning": reasoning,
        "summary": summary,
        "reasoning_tokens": reasoning_tokens,
        "repeat_period": run.period,
        "repeat_count": run.count,
        "repeat_tokens": run.tokens,
    }
