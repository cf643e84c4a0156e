"""The chunked token loss is the cross entropy of full logits, in value and in both gradients."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from umer1_core.sft.step.token_loss import weighted_token_loss

TOKENS, WIDTH, VOCABULARY = 101, 12, 37


def problem(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """(states, weight, labels, weights): some of the weights are zero."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(TOKENS, WIDTH, generator=generator).to(dtype)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator)
    labels = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    weights = torch.rand(TOKENS, generator=generator) * (torch.arange(TOKENS) % 5 > 0)
    return states.requires_grad_(), weight.requires_grad_(), labels, weights


def in_full(states: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (cross_entropy(states @ weight.T, labels, reduction="none") * weights).sum()


def distance(found: torch.Tensor, reference: torch.Tensor) -> float:
    return ((found - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize("chunk", [1, 7, 64, 101, 500, None])
def test_value_and_gradients_are_those_of_full_logits(chunk):
    states, weight, labels, weights = problem()
    loss = weighted_token_loss(states, weight, labels, weights, chunk)
    found = torch.autograd.grad(3 * loss, (states, weight))
    reference = in_full(states, weight, labels, weights)
    expected = torch.autograd.grad(3 * reference, (states, weight))
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    assert max(distance(*each) for each in zip(found, expected, strict=True)) < 1e-5


def test_the_comparison_would_see_a_label_that_is_one_off():
    states, weight, labels, weights = problem()
    loss = weighted_token_loss(states, weight, labels.roll(1), weights)
    found = torch.autograd.grad(loss, states)[0]
    assert distance(found, torch.autograd.grad(in_full(states, weight, labels, weights), states)[0]) > 0.1


def test_in_double_precision_nothing_is_rounded_to_fp32():
    states, weight, labels, weights = problem(torch.float64)
    inputs = states, weight.detach().double().requires_grad_()
    found = torch.autograd.grad(weighted_token_loss(*inputs, labels, weights.double(), 7), inputs)
    expected = torch.autograd.grad(in_full(*inputs, labels, weights.double()), inputs)
    assert max(distance(*each) for each in zip(found, expected, strict=True)) < 1e-13


def test_rows_of_weight_zero_have_neither_loss_nor_gradient():
    states, weight, labels, _ = problem()
    loss = weighted_token_loss(states, weight, labels, torch.zeros(TOKENS))
    loss.backward()
    assert loss.item() == 0
    assert states.grad.abs().max() == 0 and weight.grad.abs().max() == 0


def test_a_pack_without_supervised_tokens_has_loss_zero_and_gradients_of_zero():
    states, weight, labels, weights = problem()
    loss = weighted_token_loss(states[:0], weight, labels[:0], weights[:0])
    loss.backward()
    assert loss.item() == 0
    assert states.grad.abs().max() == 0 and weight.grad.abs().max() == 0


def test_zero_logits_give_log_v_per_token():
    loss = weighted_token_loss(torch.zeros(7, 4), torch.zeros(11, 4), torch.arange(7), torch.ones(7))
    assert loss.item() == pytest.approx(7 * math.log(11), rel=1e-5)


def test_logits_far_apart_overflow_nowhere():
    states, weight = torch.tensor([[1e4, 0.0]]).requires_grad_(), torch.eye(2)
    loss = weighted_token_loss(states, weight, torch.tensor([1]), torch.ones(1))
    loss.backward()
    assert loss.item() == pytest.approx(1e4) and states.grad.tolist() == [[1, -1]]


def test_a_label_outside_the_vocabulary_is_refused():
    states, weight, labels, weights = problem()
    for wrong in (-100, VOCABULARY):
        with pytest.raises(RuntimeError, match="out of bounds"):
            weighted_token_loss(states, weight, labels.index_fill(0, torch.tensor([3]), wrong), weights)


class Largest(TorchDispatchMode):
    """Entries of the largest tensor for which any operation takes new memory; views and results in place take none."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        there = {_memory(each) for each in _tensors((args, kwargs))}
        sizes = [each.numel() for each in _tensors(made) if _memory(each) not in there]
        self.entries = max(self.entries, *sizes, 0)
        return made


def _tensors(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def largest(function, *inputs) -> int:
    with Largest() as seen:
        function(*inputs)
    return seen.entries


def test_no_more_than_one_chunk_of_logits_is_ever_made():
    states, weight, labels, weights = problem()
    assert largest(weighted_token_loss, states, weight, labels, weights, 50) == 50 * VOCABULARY
    assert largest(in_full, states, weight, labels, weights) == TOKENS * VOCABULARY


def test_no_gradient_is_made_without_need():
    inputs = problem()
    with torch.no_grad():
        assert largest(weighted_token_loss, *inputs, 5) == 5 * VOCABULARY
        loss = weighted_token_loss(*inputs, 5)
    assert not loss.requires_grad and loss.item() == pytest.approx(in_full(*inputs).item(), rel=1e-5)


def test_the_gradient_of_a_frozen_weight_is_not_made():
    states, weight, labels, weights = problem()
    weight.requires_grad_(False)
    few = (states[:4], weight, labels[:4], weights[:4], 4)
    assert largest(weighted_token_loss, *few) == 4 * VOCABULARY < VOCABULARY * WIDTH
    loss = weighted_token_loss(states, weight, labels, weights, 5)
    loss.backward()
    reference = torch.autograd.grad(in_full(states, weight, labels, weights), states)[0]
    assert weight.grad is None and distance(states.grad, reference) < 1e-5


def test_backward_does_not_read_the_weight_again():
    states, weight, labels, weights = problem()
    expected = torch.autograd.grad(in_full(states, weight, labels, weights), (states, weight))
    loss = weighted_token_loss(states, weight, labels, weights)
    weight.data.fill_(math.nan)  # as if its shards had been given back
    loss.backward()
    assert distance(states.grad, expected[0]) < 1e-5 and distance(weight.grad, expected[1]) < 1e-5


def test_a_second_backward_and_a_second_derivative_are_refused():
    states, weight, labels, weights = problem()
    loss = weighted_token_loss(states, weight, labels, weights)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    loss = weighted_token_loss(states, weight, labels, weights)
    factor = torch.ones((), requires_grad=True)
    slope = torch.autograd.grad(factor * loss, states, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.parametrize("chunk", [7, None])
def test_under_autocast_products_are_bf16_and_sums_and_gradients_keep_their_type(chunk):
    states, weight, labels, weights = problem(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = weighted_token_loss(states, weight, labels, weights, chunk)
    loss.backward()
    wide = states.detach().float().requires_grad_(), weight.detach().requires_grad_()
    expected = torch.autograd.grad(in_full(*wide, labels, weights), wide)
    assert (loss.dtype, states.grad.dtype, weight.grad.dtype) == (torch.float32, torch.bfloat16, torch.float32)
    assert loss.item() == pytest.approx(in_full(*wide, labels, weights).item(), rel=1e-2)
    assert 1e-5 < distance(states.grad.float(), expected[0]) < 1e-2
    assert 1e-5 < distance(weight.grad, expected[1]) < 1e-2


def test_many_chunks_in_bf16_lose_no_more_than_one():
    """The weight's gradient is summed in fp32: in bf16 the small parts would be lost against the sum."""
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(4_000, 4, generator=generator).bfloat16()
    weight = torch.randn(3, 4, generator=generator).bfloat16().requires_grad_()
    labels, weights = torch.zeros(4_000, dtype=torch.int64), torch.ones(4_000)
    grads = [
        torch.autograd.grad(weighted_token_loss(states, weight, labels, weights, c), weight)[0] for c in (1, 4_000)
    ]
    assert grads[0].dtype == torch.bfloat16
    assert distance(grads[0].float(), grads[1].float()) < 1e-2
