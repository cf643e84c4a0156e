"""hit@1 on small matrices, and against a loop over all candidates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umer1_core.retrieval import hits_at_1, make_task, oracle, similarities


def test_a_tie_with_a_wrong_candidate_is_a_miss():
    relevant = np.array([[True, False]])
    assert not hits_at_1(np.array([[0.5, 0.5]]), relevant)[0]
    assert hits_at_1(np.array([[0.6, 0.5]]), relevant)[0]


def test_equal_embeddings_for_everything_score_nothing():
    task = make_task(["a", "b", "c"], ["x", "y", "z"])
    assert hits_at_1(np.ones((3, 3)), task.relevant).sum() == 0


def test_equal_targets_are_one_candidate_and_right_for_all_who_have_it():
    task = make_task(["a", "b", "c"], ["x", "x", "y"])
    assert task.candidate_keys == ("x", "y")
    assert task.relevant.tolist() == [[True, False], [True, False], [False, True]]


def test_every_target_of_a_query_that_occurs_twice_is_right():
    task = make_task(["a", "a"], ["x", "y"])
    assert task.relevant.all() and task.chance == 1.0


def test_chance_is_one_in_the_pool():
    assert make_task(list("abcd"), list("wxyz")).chance == 0.25


def test_a_candidate_without_an_embedding_is_never_found():
    scores = similarities(-np.ones((1, 2)), np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([True, False]))
    assert scores[0, 1] == -np.inf
    assert not hits_at_1(scores, np.array([[False, True]]))[0] and hits_at_1(scores, np.array([[True, False]]))[0]


def test_a_query_without_an_embedding_is_a_miss():
    scores = similarities(np.zeros((1, 2)), np.eye(2), np.array([True, True]))
    assert not hits_at_1(scores, np.array([[True, False]]))[0]


def test_the_oracle_is_per_query():
    assert oracle(np.array([True, False, False]), np.array([False, True, False])).tolist() == [True, True, False]


@given(st.integers(0, 10_000))
def test_hits_equal_a_loop_over_candidates(seed):
    rng = np.random.default_rng(seed)
    scores, relevant = rng.integers(0, 4, (5, 6)).astype(float), rng.random((5, 6)) < 0.4
    expected = [
        any(relevant[q, c] and all(relevant[q, o] or scores[q, c] > scores[q, o] for o in range(6)) for c in range(6))
        for q in range(5)
    ]
    assert hits_at_1(scores, relevant).tolist() == expected


def test_an_empty_task_has_no_chance():
    assert make_task([], []).chance == pytest.approx(0.0)
