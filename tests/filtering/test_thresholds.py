"""The shipped thresholds against loops that real language models fell into (data/README.md)."""

from pathlib import Path

import numpy as np
import orjson
import pytest

from schemas.recipe import Filters
from umer1_core.filtering.repetition import repetition
from umer1_core.loops import profiles

DATA = Path(__file__).parent / "data" / "degenerate.jsonl"


@pytest.fixture(scope="module")
def pieces() -> list[dict]:
    return [orjson.loads(line) for line in DATA.read_bytes().splitlines()]


def precision_and_recall(pieces: list[dict], min_count: float, min_tokens: int) -> tuple[float, float]:
    offsets = np.cumsum([0, *(len(piece["ids"]) for piece in pieces)])
    tokens, _ = profiles(np.concatenate([piece["ids"] for piece in pieces]), offsets, (min_count,))
    found = repetition(tokens[:, 0], min_tokens)
    looping = np.array([piece["looping"] for piece in pieces])
    return (found & looping).sum() / found.sum(), (found & looping).sum() / looping.sum()


def test_the_defaults_find_real_loops(pieces):
    filters = Filters()
    precision, recall = precision_and_recall(pieces, filters.repeat_min_count, filters.repeat_min_tokens)
    assert precision >= 0.95 and recall >= 0.80


def test_fewer_tokens_would_cost_precision_and_more_would_cost_recall(pieces):
    """What was weighed: 24 tokens miss loops that a model leaves after seven copies of three tokens."""
    precision, recall = precision_and_recall(pieces, 4, Filters().repeat_min_tokens)
    assert precision_and_recall(pieces, 4, 16)[0] < precision - 0.02
    assert precision_and_recall(pieces, 4, 24)[1] < recall - 0.05


def test_text_by_people_is_kept(pieces):
    filters = Filters()
    human = [piece for piece in pieces if piece["from"] == "people"]
    offsets = np.cumsum([0, *(len(piece["ids"]) for piece in human)])
    tokens, _ = profiles(np.concatenate([p["ids"] for p in human]), offsets, (filters.repeat_min_count,))
    assert repetition(tokens[:, 0], filters.repeat_min_tokens).mean() < 0.02


def test_the_labels_are_no_restatement_of_the_rule(pieces):
    """Both kinds of error occur: the labels were made otherwise."""
    precision, recall = precision_and_recall(pieces, 4, 16)
    assert precision < 1 and recall < 1
