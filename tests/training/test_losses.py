"""Equations 1 to 4 in closed form, and the reductions against the lists they stand for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from umer1_core.training.losses import contrastive, cross_mode, equal_entries, in_batch_hits, token_weights

NONE_EQUAL = torch.zeros(5, 5, dtype=torch.bool)
DIRECTIONS = pytest.mark.parametrize("direction", ["both", "q2t"])


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def keys(letters: str) -> torch.Tensor:
    return torch.tensor([ord(letter) for letter in letters])


# ── equal entries ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_equal_targets_and_other_targets_of_a_query_are_equal_entries():
    same_target = [[False, True, False], [True, False, False], [False, False, False]]
    assert equal_entries(keys("abc"), keys("xxy")).tolist() == same_target
    assert equal_entries(keys("aab"), keys("xyz")).tolist() == same_target


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-3, 3)), max_size=12))
def test_equal_entries_are_those_of_the_definition(pairs):
    query_keys, target_keys = (torch.tensor([pair[side] for pair in pairs], dtype=torch.int64) for side in (0, 1))
    expected = [[i != j and (a[0] == b[0] or a[1] == b[1]) for j, b in enumerate(pairs)] for i, a in enumerate(pairs)]
    assert equal_entries(query_keys, target_keys).tolist() == expected


# ── InfoNCE ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@DIRECTIONS
def test_zero_vectors_give_log_b(direction):
    zeros = torch.zeros(5, 8)
    assert contrastive(zeros, zeros, 0.02, NONE_EQUAL, direction).item() == pytest.approx(math.log(5))


@DIRECTIONS
def test_orthogonal_pairs_give_their_closed_form(direction):
    eye = torch.eye(5)
    expected = math.log(1 + 4 * math.exp(-1 / 0.5))
    assert contrastive(eye, eye, 0.5, NONE_EQUAL, direction).item() == pytest.approx(expected, rel=1e-5)


@DIRECTIONS
def test_it_is_the_cross_entropy_of_the_scores(direction):
    queries, targets = unit(5, 8), unit(5, 8, seed=1)
    scores, own = queries @ targets.T / 0.02, torch.arange(5)
    expected = cross_entropy(scores, own)
    if direction == "both":
        expected = (expected + cross_entropy(scores.T, own)) / 2
    assert torch.isclose(contrastive(queries, targets, 0.02, NONE_EQUAL, direction), expected, rtol=1e-5)


def test_the_directions_differ_and_both_is_their_mean():
    queries, targets = unit(5, 8), unit(5, 8, seed=1)
    one = contrastive(queries, targets, 1.0, NONE_EQUAL, "q2t")
    other = contrastive(targets, queries, 1.0, NONE_EQUAL, "q2t")
    assert abs(one - other) > 1e-3
    assert torch.isclose(contrastive(queries, targets, 1.0, NONE_EQUAL, "both"), (one + other) / 2)


@given(st.permutations(range(5)))
def test_the_order_of_pairs_changes_nothing(order):
    queries, targets, hard = unit(5, 8), unit(5, 8, seed=1), unit(5, 2, 8, seed=2)
    equal, usable = equal_entries(keys("abcde"), keys("xxyzz")), torch.arange(10).view(5, 2) % 3 > 0
    picked = torch.tensor(order)
    mixed = contrastive(
        queries[picked],
        targets[picked],
        0.3,
        equal[picked][:, picked],
        "both",
        2.0,
        hard[picked],
        usable[picked],
    )
    assert torch.isclose(mixed, contrastive(queries, targets, 0.3, equal, "both", 2.0, hard, usable), atol=1e-5)


def test_equal_entries_leave_the_denominator():
    zeros = torch.zeros(4, 8)
    equal = equal_entries(keys("abcd"), keys("xxyz"))
    expected = (2 * math.log(3) + 2 * math.log(4)) / 4
    assert contrastive(zeros, zeros, 1.0, equal, "q2t").item() == pytest.approx(expected)
    unmasked = contrastive(zeros, zeros, 1.0, torch.zeros_like(equal), "q2t").item()
    assert unmasked == pytest.approx(math.log(4)), "without the mask the test above would prove nothing"


@DIRECTIONS
def test_a_row_whose_every_other_entry_is_masked_has_loss_and_gradient_zero(direction):
    queries, targets = unit(3, 8).requires_grad_(), unit(3, 8, seed=1)
    everything = equal_entries(keys("aaa"), keys("xxx"))
    hard = unit(3, 2, 8, seed=2)
    loss = contrastive(queries, targets, 0.02, everything, direction, 9.0, hard, torch.zeros(3, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert queries.grad.abs().max() == 0.0


@DIRECTIONS
def test_scores_stay_in_fp32_in_a_region_of_lower_precision(direction):
    queries, targets = unit(5, 8), unit(5, 8, seed=1)
    whole = contrastive(queries, targets, 0.02, NONE_EQUAL, direction)
    with torch.autocast("cpu", torch.bfloat16):
        assert (queries @ targets.T).dtype == torch.bfloat16, "otherwise this test would prove nothing"
        inside = contrastive(queries, targets, 0.02, NONE_EQUAL, direction, 0.0, unit(5, 1, 8)[:, :0])
    assert inside.dtype == torch.float32 and torch.equal(inside, whole)


# ── hard negatives, hardness, temperature, cross mode ────────────────────────────────────────────────────────────────


def test_hard_negatives_stand_in_the_denominator_of_their_own_query_only():
    zeros, hard = torch.zeros(4, 8), torch.zeros(4, 3, 8)
    usable = torch.tensor([[True, True, True], [True, False, False], [False] * 3, [False] * 3])
    expected = (math.log(7) + math.log(5) + 2 * math.log(4)) / 4
    found = contrastive(zeros, zeros, 1.0, NONE_EQUAL[:4, :4], "q2t", negatives=hard, usable=usable)
    assert found.item() == pytest.approx(expected)


def test_hard_negatives_do_not_enter_the_direction_from_targets():
    zeros, hard = torch.zeros(4, 8), torch.zeros(4, 3, 8)
    found = contrastive(zeros, zeros, 1.0, NONE_EQUAL[:4, :4], "both", negatives=hard)
    assert found.item() == pytest.approx((math.log(7) + math.log(4)) / 2)


def test_a_hard_negative_gets_a_gradient_and_one_that_is_not_usable_gets_none():
    hard = unit(3, 2, 8, seed=2).requires_grad_()
    usable = torch.tensor([[True, False]] * 3)
    equal = torch.zeros(3, 3, dtype=torch.bool)
    contrastive(unit(3, 8), unit(3, 8, seed=1), 0.5, equal, "q2t", negatives=hard, usable=usable).backward()
    assert hard.grad[:, 0].abs().amax(1).min() > 0 and hard.grad[:, 1].abs().max() == 0


@DIRECTIONS
def test_hardness_adds_its_multiple_of_the_similarity_to_negatives_alone(direction):
    cosine = 0.6
    queries = torch.eye(2)
    targets = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]])
    own = [1.0, math.sqrt(1 - cosine**2)]
    other = {"q2t": [cosine, 0.0], "t2q": [0.0, cosine]}  # the similarity of each row's only negative

    def closed(similarities: list[float]) -> float:
        rows = [math.log(1 + math.exp(s / 0.5 + 9 * s - o / 0.5)) for s, o in zip(similarities, own, strict=True)]
        return sum(rows) / 2

    expected = closed(other["q2t"]) if direction == "q2t" else (closed(other["q2t"]) + closed(other["t2q"])) / 2
    assert contrastive(queries, targets, 0.5, NONE_EQUAL[:2, :2], direction, 9.0).item() == pytest.approx(expected)


def test_hardness_counts_for_hard_negatives_too():
    query, target = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    hard = torch.tensor([[[0.6, 0.8]]])
    found = contrastive(query, target, 0.5, NONE_EQUAL[:1, :1], "q2t", 9.0, hard)
    assert found.item() == pytest.approx(math.log(1 + math.exp(0.6 / 0.5 + 9 * 0.6 - 2)), rel=1e-5)


def test_hardness_weighs_negatives_without_a_gradient_of_its_own():
    queries, targets = unit(5, 8).requires_grad_(), unit(5, 8, seed=1)
    contrastive(queries, targets, 0.5, NONE_EQUAL, "q2t", 3.0).backward()
    with torch.no_grad():
        scores = queries @ targets.T
        shares = (scores / 0.5 + 3.0 * scores * (1 - torch.eye(5))).softmax(1)
        expected = (shares - torch.eye(5)) @ targets / 0.5 / 5
    assert torch.allclose(queries.grad, expected, atol=1e-6)


def test_a_temperature_can_be_learned():
    queries, targets = unit(5, 8), unit(5, 8, seed=1)
    temperature = torch.tensor(0.5, requires_grad=True)
    found = contrastive(queries, targets, temperature, NONE_EQUAL)
    found.backward()
    near = [contrastive(queries, targets, 0.5 + step, NONE_EQUAL).item() for step in (-1e-2, 1e-2)]
    assert found.item() == pytest.approx(contrastive(queries, targets, 0.5, NONE_EQUAL).item())
    assert temperature.grad.item() == pytest.approx((near[1] - near[0]) / 2e-2, rel=1e-2)


def test_cross_mode_goes_from_discriminative_queries_to_generative_targets():
    disc, gen = unit(5, 8).requires_grad_(), unit(5, 8, seed=1).requires_grad_()
    found = cross_mode(disc, gen, 0.3, NONE_EQUAL, weight=0.25)
    found.backward()
    expected = contrastive(disc, gen, 0.3, NONE_EQUAL, "q2t")
    assert found.item() == pytest.approx(expected.item() / 4)
    assert disc.grad.abs().max() > 0 and gen.grad.abs().max() > 0
    assert abs(expected - contrastive(gen, disc, 0.3, NONE_EQUAL, "q2t")) > 1e-3


# ── hits ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_hit_has_its_own_target_strictly_above_all_others():
    queries = torch.eye(3)
    targets = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    assert in_batch_hits(queries, targets, NONE_EQUAL[:3, :3]).tolist() == [False, False, True]


def test_masked_candidates_cannot_take_a_hit():
    queries = torch.eye(3)
    targets = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    equal = equal_entries(keys("abc"), keys("xxy"))
    assert in_batch_hits(queries, targets, equal).tolist() == [True, False, True]


def test_hits_are_decided_in_fp32_in_a_region_of_lower_precision():
    queries, targets = torch.eye(2), torch.tensor([[1.0, 0.0], [0.999, 0.0447]])
    with torch.autocast("cpu", torch.bfloat16):
        assert len((queries @ targets.T)[0].unique()) == 1, "otherwise this test would prove nothing"
        assert in_batch_hits(queries, targets, NONE_EQUAL[:2, :2]).tolist() == [True, True]


def test_rounding_decides_no_hit():
    """A matrix product may round equal vectors differently by their column: a collapsed model must not seem to hit."""
    below = torch.nextafter(torch.ones(()), torch.zeros(()))
    queries = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    for near, hit in ((below, False), (torch.tensor(0.999), True)):
        targets = torch.stack([torch.tensor([1.0, 0, 0]), torch.stack([near, torch.ones(()), torch.zeros(())])])
        assert in_batch_hits(queries, targets, NONE_EQUAL[:2, :2]).tolist() == [hit, True]
    for count in (2, 5, 9, 130):
        same = unit(1, 1_536, seed=count).expand(count, -1).contiguous()
        assert not in_batch_hits(same, same, torch.zeros(count, count, dtype=torch.bool)).any()


# ── token weights ────────────────────────────────────────────────────────────────────────────────────────────────────


COUNTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=9)


def literal(reduction: str, rows: list[tuple[list[float], list[float]]], microbatch: int) -> float:
    """The token term as it is written down, from the loss of every token: [(query's, target's)]."""
    if reduction == "paper":
        return sum(sum(query) + sum(target) for query, target in rows) / len(rows)
    if reduction == "token_mean":
        every = [loss for row in rows for side in row for loss in side]
        return sum(every) / len(every) if every else 0.0
    groups = [rows[first : first + microbatch] for first in range(0, len(rows), microbatch)]
    total = 0.0
    for group in groups:
        for side in (0, 1):
            losses = [loss for row in group for loss in row[side]]
            total += sum(losses) / len(losses) if losses else 0.0
    return total / len(groups)


@pytest.mark.parametrize("reduction", ["paper", "released", "token_mean"])
@given(counts=COUNTS, microbatch=st.integers(1, 5))
def test_the_reductions_are_what_is_written_down(reduction, counts, microbatch):
    generator = torch.Generator().manual_seed(len(counts))
    rows = [tuple(torch.rand(n, generator=generator).tolist() for n in row) for row in counts]
    sides = torch.tensor(counts)
    weights = token_weights(reduction, sides[:, 0], sides[:, 1], microbatch)
    found = sum(
        weights[side][i].item() * sum(rows[i][side]) for i in range(len(rows)) for side in (0, 1) if rows[i][side]
    )
    assert found == pytest.approx(literal(reduction, rows, microbatch), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("reduction", ["paper", "released", "token_mean"])
def test_rows_without_tokens_weigh_nothing_and_no_weight_is_infinite(reduction):
    query, target = token_weights(reduction, torch.tensor([0, 3, 0]), torch.tensor([0, 0, 0]), 1)
    assert query[[0, 2]].tolist() == [0, 0] and query[1] > 0 and target.tolist() == [0, 0, 0]
    nothing = token_weights(reduction, torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), 2)
    assert torch.stack(nothing).tolist() == [[0, 0], [0, 0]]


def test_the_three_reductions_differ():
    counts = torch.tensor([1, 2, 4]), torch.tensor([8, 16, 32])
    found = [token_weights(name, *counts, 2)[0][0].item() for name in ("paper", "released", "token_mean")]
    assert found == pytest.approx([1 / 3, 1 / 3 / 2, 1 / 63])


@pytest.mark.parametrize("direction", ["both", "q2t"])
def test_the_parts_of_a_batch_add_up_to_its_loss_and_gradient(direction):
    generator = torch.Generator().manual_seed(3)
    vectors = [torch.randn(7, 8, generator=generator, dtype=torch.float64).float() for _ in range(2)]
    hard = torch.randn(7, 2, 8, generator=generator)
    usable = torch.rand(7, 2, generator=generator) > 0.4
    equal = torch.zeros(7, 7, dtype=torch.bool)
    equal[0, 3] = equal[3, 0] = True
    results = []
    for parts in ([slice(None)], [slice(0, 3), slice(3, 4), slice(4, 9)]):
        sides = [normalize(v, dim=-1).requires_grad_() for v in vectors]
        negatives = hard.clone().requires_grad_()
        losses = [contrastive(*sides, 0.1, equal, direction, 2.0, negatives, usable, rows) for rows in parts]
        sum(losses).backward()
        hits = torch.cat([in_batch_hits(*sides, equal, rows) for rows in parts])
        results.append([sum(losses).detach(), *(side.grad for side in sides), negatives.grad, hits.float()])
    for whole, in_parts in zip(*results, strict=True):
        assert torch.allclose(whole, in_parts, atol=1e-6)
