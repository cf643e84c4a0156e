"""Retrieval metrics on plain arrays (UME-R1 section 4.1 hit@1, 4.2 oracle).

Guarantees: a tie with a wrong candidate counts as a miss, so constant or missing embeddings score nothing; every target
that is right for a query counts as right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Task:
    """Queries against one pool. relevant: [queries, candidates], True where the candidate is right."""

    query_keys: tuple[str, ...]
    candidate_keys: tuple[str, ...]
    relevant: np.ndarray

    @property
    def chance(self) -> float:
        """hit@1 of a random guess."""
        return float(self.relevant.mean()) if self.relevant.size else 0.0


def make_task(query_keys: Sequence[str], target_keys: Sequence[str]) -> Task:
    """One pool of the distinct targets; a target is right for a query that has it in any of the pairs."""
    candidates = tuple(dict.fromkeys(target_keys))
    place = {key: index for index, key in enumerate(candidates)}
    right: dict[str, set[int]] = {}
    for query, target in zip(query_keys, target_keys, strict=True):
        right.setdefault(query, set()).add(place[target])
    relevant = np.zeros((len(query_keys), len(candidates)), dtype=bool)
    for row, query in enumerate(query_keys):
        relevant[row, list(right[query])] = True
    return Task(tuple(query_keys), candidates, relevant)


def retrieved(
    queries: np.ndarray, asked: np.ndarray, candidates: np.ndarray, usable: np.ndarray, relevant: np.ndarray
) -> np.ndarray:
    """[queries], hit@1 from vectors: a query without an embedding is a miss, such a candidate is never found.

    queries, candidates: [n, width]; asked, usable: [n], where there is an embedding.
    """
    return hits_at_1(similarities(queries, candidates, usable), relevant) & asked


def similarities(queries: np.ndarray, candidates: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Inner products [queries, candidates]; -inf for candidates without an embedding (usable: [candidates])."""
    return np.where(usable[None, :], queries @ candidates.T, -np.inf)


def hits_at_1(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """[queries], True where a right candidate is above every wrong one. scores, relevant: [queries, candidates]."""
    best_right = np.where(relevant, scores, -np.inf).max(1, initial=-np.inf)
    best_wrong = np.where(relevant, -np.inf, scores).max(1, initial=-np.inf)
    return (best_right > best_wrong) & np.isfinite(best_right)


def oracle(generative: np.ndarray, discriminative: np.ndarray) -> np.ndarray:
    """For each query the better of both modes. Both: [queries], hits."""
    return generative | discriminative
