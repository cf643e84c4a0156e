"""A small data set, consistent in every count, and the ways to break it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.recipe import Validation
from schemas.suites import suites
from schemas.tables import RL
from umer1_core.loops import COUNTS
from umer1_core.pairs import Pair, Side, pair_id, pair_record, side_record
from umer1_core.store import Store
from umer1_core.template import training_prompt, training_response
from umer1_core.validation.expectations import Failure, check
from umer1_core.validation.validate import measure

SHARDS, PAIRS_PER_SHARD = 2, 6


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Store]:
    """`make_store(**changes)`: a store whose tables were written by the rules; `changes` edit the rows of a table."""

    def make(**edits: Callable[[list[dict[str, Any]], int], None]) -> Store:
        store = Store(str(tmp_path / "v1"))
        for shard in range(SHARDS):
            for table, rows in tables(shard).items():
                edits.get(table, lambda rows, shard: None)(rows, shard)
                store.write_shard(table, f"{shard:05d}", rows)
        return store

    return make


@pytest.fixture
def failures(tmp_path: Path) -> Callable[..., list[Failure]]:
    """`failures(store, *groups, **settings)`: of these groups only, since every expectation costs 20 ms."""

    def find(
        store: Store, *groups: str, parent: Store | None = None, held_out: Store | None = None, **settings: Any
    ) -> list[Failure]:
        validation = Validation(**settings)
        frames = [frame for frame in measure(store, validation, parent, held_out) if frame.name in groups]
        return list(check(frames, suites(validation), tmp_path / "docs").failures)

    return find


def tables(shard: int) -> dict[str, list[dict[str, Any]]]:
    """One shard of every table; the last pair's target was dropped as a loop, so it goes to `rl`."""
    pairs = [_pair(shard * PAIRS_PER_SHARD + i) for i in range(PAIRS_PER_SHARD)]
    sides = [side for pair in pairs for side in (pair.query, pair.target)]
    dropped = {pairs[-1].target.key}
    return {
        "pairs": [pair_record(pair) for pair in pairs],
        "sides": [_side(side) for side in sides],
        "annotations": [_annotation(side) for side in sides],
        "attempts": [_attempt(side) for side in sides],
        "verdicts": [_verdict(side, side.key not in dropped) for side in sides],
        "cold_start": [_cold_start(pair) for pair in pairs[:-1]],
        "rl": [_rl(pairs[-1])],
    }


def _pair(number: int) -> Pair:
    source = "mmeb/OK-VQA"
    query, target = Side(f"query {number}"), Side(f"target {number}")
    return Pair(pair_id(source, str(number)), source, "image", query, target, row=f"rows.parquet#{number}")


def _side(side: Side) -> dict[str, Any]:
    return {"side_key": side.key, "source": "mmeb/OK-VQA", "modality": "image", "uses": 1, **side_record(side)}


def _annotation(side: Side) -> dict[str, Any]:
    return {
        "side_key": side.key,
        "sample": 0,
        "source": "mmeb/OK-VQA",
        "completion": f"<think>about {side.text}</think><answer>{side.text}</answer>",
        "finish_reason": "stop",
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "attempts": 1,
        "round": 0,
        "seconds": 0.5,
        "annotator": "test",
        "error": "",
    }


def _attempt(side: Side) -> dict[str, Any]:
    named = {"side_key": side.key, "sample": 0, "source": "mmeb/OK-VQA", "attempt": 1, "outcome": "ok", "seed": 1}
    return named | {"prompt_tokens": 100, "completion_tokens": 20, "replica": "http://gpu-1:8000/v1"}


def _verdict(side: Side, kept: bool) -> dict[str, Any]:
    return {
        "side_key": side.key,
        "sample": 0,
        "source": "mmeb/OK-VQA",
        "kept": kept,
        "reasons": [] if kept else ["loop"],
        "flags": [],
        "form": [],
        "reasoning": f"about {side.text}",
        "summary": side.text,
        "reasoning_tokens": 10,
        "repeat_period": 0,
        "repeat_count": 0.0,
        "repeat_tokens": 0,
        "repeat_profile": [0] * len(COUNTS),
        "repeat_periods": [0] * len(COUNTS),
        "burst_chars": 0,
        "commentary_chars": 0,
        "prompt_copy": 0.0,
        "summary_chars": len(side.text),
        "completion_tokens": 20,
        "uses": 1,
    }


def _cold_start(pair: Pair) -> dict[str, Any]:
    record: dict[str, Any] = _identity(pair) | {"negatives": [], "flags": [], "provenance": _provenance(pair)}
    for role, side in (("query", pair.query), ("target", pair.target)):
        record[f"{role}_prompt"] = training_prompt(side.text)
        record[f"{role}_media"] = []
        record[f"{role}_response"] = training_response(f"about {side.text}", side.text)
    return record


def _rl(pair: Pair) -> dict[str, Any]:
    row = _cold_start(pair) | {"origin": "rejected", "block": 0, "row": pair.row}
    return {name: value for name, value in row.items() if name in RL.names}


def _provenance(pair: Pair) -> dict[str, Any]:
    answered = {"annotator": "test", "sample": 0, "round": 0}
    sides = {f"{role}_{name}": value for role in ("query", "target") for name, value in answered.items()}
    return {"row": pair.row, **sides}


def _identity(pair: Pair) -> dict[str, Any]:
    return {
        "pair_id": pair.pair_id,
        "source": pair.source,
        "modality": pair.modality,
        "query_key": pair.query.key,
        "target_key": pair.target.key,
    }
