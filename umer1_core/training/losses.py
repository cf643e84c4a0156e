"""The contrastive terms of the SFT loss and the weights of its token term (UME-R1 section 3.3, equations 1 to 4).

Guarantees: pure functions of whole batches, no I/O, no distributed state. Entries that are equal by content are no
negatives of each other. Scores are in fp32 whatever the precision around; a row whose every other entry is masked has
loss 0, never NaN. Zero vectors give log B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from blake3 import blake3
from torch import Tensor

Direction = Literal["both", "q2t"]
TokenReduction = Literal["paper", "released", "token_mean"]

# A matrix product rounds equal vectors differently by their column; cosines this near are a tie.
_TIE = 1e-6
_ALL = slice(None)


def equal_entries(query_keys: Tensor, target_keys: Tensor) -> Tensor:
    """[n, n], True where j is no negative of i: the same target, or another target of the same query.

    query_keys, target_keys: int64 [n], equal where the content is. The diagonal is False; the matrix is symmetric.
    """
    same = query_keys.unsqueeze(1) == query_keys
    same |= target_keys.unsqueeze(1) == target_keys
    return same.fill_diagonal_(False)


def content_keys(queries: Sequence[str], targets: Sequence[str]) -> Tensor:
    """int64 [pairs, 2]: equal content gives equal numbers, on every process."""
    numbers = [[_number(query), _number(target)] for query, target in zip(queries, targets, strict=True)]
    return torch.tensor(numbers, dtype=torch.int64).view(-1, 2)  # also where there are none


def contrastive(
    queries: Tensor,
    targets: Tensor,
    temperature: float | Tensor,
    equal: Tensor,
    direction: Direction = "both",
    hardness: float = 0.0,
    negatives: Tensor | None = None,
    usable: Tensor | None = None,
    rows: slice = _ALL,
) -> Tensor:
    """InfoNCE of a whole batch, a scalar: equations 1 and 2 (`q2t`), or the mean of both directions, as released.

    queries, targets: [n, width], normalised, row i of one with row i of the other; equal: [n, n], see `equal_entries`:
    entries left out of the denominators. temperature: a number, or a tensor of one element that gets a gradient.

    hardness: added to the logit of each negative, times its similarity without gradient and not divided by the
    temperature, so that near negatives weigh more (LLaVE, arXiv 2503.04812, equation 5, with 9); 0 is plain InfoNCE.

    negatives: [n, k, width], the hard negatives of each query; they stand in the denominator of their own query alone,
    and only from query to target. usable: [n, k], False for a place without one (which may hold anything finite). A
    negative equal to its query's own target is the caller's to mark there: contents are not known here.

    rows: the part of the batch whose losses are summed, divided by n all the same. The parts of a batch add up to its
    loss, and one at a time needs no [n, n] matrix of scores.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, targets = queries.float(), targets.float()
        own, logits = _logits(queries, targets, temperature, equal, hardness, rows)
        if negatives is not None:
            hard = _hard_logits(queries[rows], negatives[rows], usable, temperature, hardness, rows)
            logits = torch.cat([logits, hard], dim=1)
        forward = (logits.logsumexp(1) - own).sum() / len(queries)
        if direction == "q2t":
            return forward
        own, logits = _logits(targets, queries, temperature, equal.T, hardness, rows)
        return (forward + (logits.logsumexp(1) - own).sum() / len(queries)) / 2


def cross_mode(
    disc_queries: Tensor,
    gen_targets: Tensor,
    temperature: float | Tensor,
    equal: Tensor,
    weight: float = 1.0,
    rows: slice = _ALL,
) -> Tensor:
    """`weight` times InfoNCE from discriminative queries to generative targets, a scalar.

    The recipe does not align the two spaces, so an index of generative targets, made once and offline, cannot be
    searched with cheap discriminative queries. This term asks for that, in that direction alone: there the queries
    choose among the targets. The gradient goes to both sides. Shapes as in `contrastive`.
    """
    return weight * contrastive(disc_queries, gen_targets, temperature, equal, "q2t", rows=rows)


@torch.no_grad()
def in_batch_hits(queries: Tensor, targets: Tensor, equal: Tensor, rows: slice = _ALL) -> Tensor:
    """[n] bool: the query's own target scores strictly above every other that is not masked; ties are misses.

    queries, targets: [n, width], normalised; equal: [n, n], see `equal_entries`. A query without candidates but its own
    target hits. rows: only these queries.
    """
    own, others = _scores(queries, targets, rows)
    others.masked_fill_(equal[rows], float("-inf"))
    others[_places(own, rows, len(queries))] = float("-inf")
    return own > others.amax(1) + _TIE


def token_weights(
    reduction: TokenReduction, query_tokens: Tensor, target_tokens: Tensor, microbatch: int = 1
) -> tuple[Tensor, Tensor]:
    """What a supervised token of each row weighs, so that the sum of weight · loss over the step is the token term.

    query_tokens, target_tokens: int64 [n], supervised tokens of each side, in the step's order over all processes;
    gives fp32 [n] for each side. How rows are packed or spread changes nothing; rows without tokens weigh 0.

    `paper`: equation 3, the token sum of both sides, mean over the n pairs. `released`: token mean of each micro-batch
    of `microbatch` consecutive pairs, queries and targets apart and added, mean over the micro-batches (one without
    tokens counts as 0). `token_mean`: mean over all tokens of both sides.
    """
    sides = torch.stack([query_tokens, target_tokens])
    if reduction == "paper":
        divisors = torch.full_like(sides, sides.shape[1])
    elif reduction == "token_mean":
        divisors = sides.sum().expand_as(sides)
    else:
        divisors = _released_divisors(sides, microbatch)
    query_weights, target_weights = torch.where(sides > 0, 1 / divisors, 0.0).unbind()
    return query_weights, target_weights


def _logits(
    anchors: Tensor, others: Tensor, temperature: float | Tensor, equal: Tensor, hardness: float, rows: slice
) -> tuple[Tensor, Tensor]:
    """Of the anchors in `rows`: ([m] of their own partner, [m, n] of all), masked entries -inf."""
    own, scores = _scores(anchors, others, rows)
    own = own / temperature
    logits = _hardened(scores, temperature, hardness).masked_fill(equal[rows], float("-inf"))
    return own, logits.index_put(_places(own, rows, len(anchors)), own)


def _scores(anchors: Tensor, others: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """([m] with the own partner, [m, n] with all), fp32."""
    with torch.autocast(anchors.device.type, enabled=False):
        scores = anchors[rows].float() @ others.float().T
    return scores[_places(scores, rows, len(anchors))], scores


def _places(like: Tensor, rows: slice, count: int) -> tuple[Tensor, Tensor]:
    """Where in [m, count] the rows meet their own partners."""
    partners = torch.arange(count, device=like.device)[rows]
    return torch.arange(len(partners), device=like.device), partners


def _hardened(scores: Tensor, temperature: float | Tensor, hardness: float) -> Tensor:
    return scores / temperature + hardness * scores.detach() if hardness else scores / temperature


def _hard_logits(
    queries: Tensor,
    negatives: Tensor,
    usable: Tensor | None,
    temperature: float | Tensor,
    hardness: float,
    rows: slice,
) -> Tensor:
    """[m, k], of queries and negatives of `rows`."""
    scores = torch.einsum("nw,nkw->nk", queries, negatives.float())
    logits = _hardened(scores, temperature, hardness)
    return logits if usable is None else logits.masked_fill(~usable[rows], float("-inf"))


def _released_divisors(sides: Tensor, microbatch: int) -> Tensor:
    """[2, n]: tokens of the row's micro-batch on its side, times the number of micro-batches. sides: [2, n] counts."""
    group = torch.arange(sides.shape[1], device=sides.device) // microbatch
    groups = -(-sides.shape[1] // microbatch)
    sums = sides.new_zeros(2, groups).index_add_(1, group, sides)
    return sums[:, group] * groups


def _number(key: str) -> int:
    return int.from_bytes(blake3(key.encode()).digest()[:8], "big", signed=True)
