"""Equations 1 to 4 in closed form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from umer1_core.sft.losses import equal_entries, info_nce, next_token_sum, token_divisor

NONE_EQUAL = torch.zeros(5, 5, dtype=torch.bool)


@pytest.mark.parametrize("direction", ["both", "q2t"])
def test_zero_vectors_give_log_b(direction):
    zeros = torch.zeros(5, 8)
    assert info_nce(zeros, zeros, 0.02, NONE_EQUAL, direction).item() == pytest.approx(math.log(5))


@pytest.mark.parametrize("direction", ["both", "q2t"])
def test_orthogonal_pairs_give_their_closed_form(direction):
    eye = torch.eye(5)
    expected = math.log(1 + 4 * math.exp(-1 / 0.5))
    assert info_nce(eye, eye, 0.5, NONE_EQUAL, direction).item() == pytest.approx(expected, rel=1e-5)


def test_equal_targets_are_no_negatives():
    zeros = torch.zeros(4, 8)
    equal = equal_entries(list("abcd"), list("xxyz"))
    expected = (2 * math.log(3) + 2 * math.log(4)) / 4
    assert info_nce(zeros, zeros, 1.0, equal, "q2t").item() == pytest.approx(expected)
    unmasked = info_nce(zeros, zeros, 1.0, torch.zeros_like(equal), "q2t").item()
    assert unmasked == pytest.approx(math.log(4)), "without the mask the test above would prove nothing"


def test_equal_queries_are_no_negatives_either():
    equal = equal_entries(["a", "a", "b"], ["x", "y", "z"])
    assert equal.tolist() == [[False, True, False], [True, False, False], [False, False, False]]


def test_the_directions_differ_and_both_is_their_mean():
    torch.manual_seed(0)
    queries, targets = torch.randn(5, 8), torch.randn(5, 8)
    one = info_nce(queries, targets, 1.0, NONE_EQUAL, "q2t")
    other = info_nce(targets, queries, 1.0, NONE_EQUAL, "q2t")
    assert abs(one - other) > 1e-3
    assert torch.isclose(info_nce(queries, targets, 1.0, NONE_EQUAL, "both"), (one + other) / 2)


@given(st.permutations(range(5)))
def test_the_order_of_pairs_changes_nothing(order):
    generator = torch.Generator().manual_seed(1)
    queries, targets = torch.randn(5, 8, generator=generator), torch.randn(5, 8, generator=generator)
    equal = equal_entries(list("abcde"), list("xxyzz"))
    picked = torch.tensor(order)
    mixed = info_nce(queries[picked], targets[picked], 0.3, equal[picked][:, picked])
    assert torch.isclose(mixed, info_nce(queries, targets, 0.3, equal), atol=1e-5)


def test_zero_logits_give_log_v_per_token():
    total = next_token_sum(torch.zeros(7, 4), torch.zeros(11, 4), torch.arange(7))
    assert total.item() == pytest.approx(7 * math.log(11), rel=1e-5)


def test_chunked_and_whole_token_loss_agree_in_value_and_gradient():
    torch.manual_seed(0)
    states, weight, labels = torch.randn(2_500, 6), torch.randn(13, 6), torch.randint(13, (2_500,))
    results = []
    for chunked in (True, False):
        s, w = states.clone().requires_grad_(), weight.clone().requires_grad_()
        logits = torch.nn.functional.linear(s, w)
        loss = (
            next_token_sum(s, w, labels)
            if chunked
            else torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        )
        loss.backward()
        results.append((loss.detach(), s.grad, w.grad))
    for mine, reference in zip(*results, strict=True):
        assert torch.allclose(mine, reference, rtol=1e-4, atol=1e-4)


def test_the_token_loss_is_divided_by_tokens_or_by_pairs():
    assert token_divisor("token_mean", 300, 8) == 300 and token_divisor("sample_sum", 300, 8) == 8
