"""One optimizer step's gradient: encode both sides, three losses, backward (UME-R1 equation 4).

Guarantee: the gradient is that of the whole batch's loss. `sft_step` is the only place that knows how the batch is
passed through the model; rows of like length go together, so little is computed on padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from umer1_core.backbone.collate import IGNORED, Row, collate
from umer1_core.backbone.forward import hidden_states
from umer1_core.backbone.model import Backbone
from umer1_core.backbone.positions import Reading, read_embeddings
from umer1_core.errors import Fatal
from umer1_core.sft.losses import Direction, TokenReduction, equal_entries, info_nce, next_token_sum, token_divisor

_ROWS_AT_A_TIME = 16


@dataclass(frozen=True, slots=True)
class PairRows:
    """A pair ready for the model."""

    query: Row
    target: Row
    query_key: str
    target_key: str


@dataclass(frozen=True, slots=True)
class LossSettings:
    temperature: float
    direction: Direction
    token_loss: TokenReduction
    response_noise: float = 0.0


@dataclass(frozen=True, slots=True)
class StepLosses:
    """The three terms and their sum; tokens that carried a label."""

    loss: float
    disc: float
    gen: float
    token: float
    tokens: int


@dataclass(frozen=True, slots=True)
class _Pass:
    """gen, disc: [rows, width], in the order of the rows; token_sum: a scalar; tokens: labels in it."""

    gen: Tensor
    disc: Tensor
    token_sum: Tensor
    tokens: int


def sft_step(backbone: Backbone, pairs: Sequence[PairRows], settings: LossSettings) -> StepLosses:
    """Accumulate the gradient of equation 4 over the batch and return its terms."""
    count = len(pairs)
    passed = _forward(backbone, [p.query for p in pairs] + [p.target for p in pairs], settings.response_noise)
    equal = equal_entries([p.query_key for p in pairs], [p.target_key for p in pairs]).to(passed.gen.device)
    terms = [
        info_nce(vectors[:count], vectors[count:], settings.temperature, equal, settings.direction)
        for vectors in (passed.disc, passed.gen)
    ]
    token = passed.token_sum / token_divisor(settings.token_loss, passed.tokens, count)
    loss = terms[0] + terms[1] + token
    loss.backward()
    return StepLosses(loss.item(), terms[0].item(), terms[1].item(), token.item(), passed.tokens)


def misread(ids: Tensor, labels: Tensor, share: float, kept: Sequence[int]) -> Tensor:
    """Put other words of the batch's responses in the place of some, so that attributes are read from the input.

    ids, labels: [batch, length]; kept: ids that stay, as `<gen_emb>`. Draws from torch's random state.
    """
    words = (labels != IGNORED) & ~torch.isin(ids, ids.new_tensor(kept))
    chosen = words & (torch.rand(ids.shape) < share).to(ids.device)
    pool = ids[words]
    drawn = pool[torch.randint(len(pool), (int(chosen.sum()),)).to(ids.device)]
    return ids.masked_scatter(chosen, drawn)


def _forward(backbone: Backbone, rows: Sequence[Row], noise: float) -> _Pass:
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    parts = [
        _forward_group(backbone, [rows[i] for i in order[first : first + _ROWS_AT_A_TIME]], noise)
        for first in range(0, len(order), _ROWS_AT_A_TIME)
    ]
    back = torch.tensor(order, device=backbone.device).argsort()
    return _Pass(
        gen=torch.cat([p.gen for p in parts])[back],
        disc=torch.cat([p.disc for p in parts])[back],
        token_sum=torch.stack([p.token_sum for p in parts]).sum(),
        tokens=sum(p.tokens for p in parts),
    )


def _forward_group(backbone: Backbone, rows: Sequence[Row], noise: float) -> _Pass:
    batch = collate(rows, backbone.ids, backbone.device)
    if noise:
        batch = replace(
            batch, ids=misread(batch.ids, batch.labels, noise, (backbone.ids.gen, backbone.ids.end_of_turn))
        )
    hidden = hidden_states(backbone, batch)
    gen = read_embeddings(hidden, batch.ids, backbone.ids.gen, batch.assistant)
    disc = read_embeddings(hidden, batch.ids, backbone.ids.disc, batch.user)
    _require(gen, "<gen_emb> in the response")
    _require(disc, "<disc_emb> in the prompt")
    wanted = batch.labels[:, 1:] != IGNORED
    with backbone.computing():
        states, weight = hidden[:, :-1][wanted], backbone.model.lm_head.weight
        token_sum = next_token_sum(states, weight, batch.labels[:, 1:][wanted])
    return _Pass(gen.vectors, disc.vectors, token_sum, int(wanted.sum()))


def _require(reading: Reading, what: str) -> None:
    if any(status != "ok" for status in reading.statuses):
        raise Fatal(f"A row of cold_start has no {what}.", "Publish the data set again with this version of umer1.")
