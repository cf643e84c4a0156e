"""Does `<gen_emb>` depend on the reasoning before it? (UME-R1, public issue 12: cosines of .95 to .98, hardly.)

Guarantees: teacher-forced, nothing is generated and no random number drawn; all variants of a row are written in one
form, so they differ in what their names say and in nothing else; the model is left in the mode it was in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from umer1_core.backbone.collate import Encoder, Row, collate
from umer1_core.backbone.forward import hidden_states
from umer1_core.backbone.model import Backbone
from umer1_core.backbone.positions import read_embeddings
from umer1_core.errors import BadInput
from umer1_core.pairs import Media
from umer1_core.template import Response, parse_rollout, training_response


@dataclass(frozen=True, slots=True)
class Reasoned:
    """A side's user turn and what was answered: `<think>…</think><answer>…<gen_emb>`."""

    prompt: str
    media: tuple[Media, ...]
    response: str


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Mean cosines of a row's own `<gen_emb>` with that of the same prompt and

    swapped: another row's reasoning before the own answer; swapped_all: another row's whole response;
    empty: no reasoning before the own answer. other: with another row's own, what unlike inputs come to.
    rows: what the means are over; left_out: rows without the form, unlike no other, unreadable or too long.
    All four are nan where no two rows differ.
    """

    swapped: float
    swapped_all: float
    empty: float
    other: float
    rows: int
    left_out: int

    def record(self) -> dict[str, float]:
        """As an evaluation's record names them."""
        return {
            "cot_swapped": self.swapped,
            "cot_swapped_all": self.swapped_all,
            "cot_empty": self.empty,
            "cot_other": self.other,
            "cot_rows": self.rows,
        }


def cot_sensitivity(backbone: Backbone, encoder: Encoder, rows: Sequence[Reasoned], batch: int = 16) -> Sensitivity:
    """Measure it. The other row is the next one whose reasoning and answer both differ. batch: sequences at a time."""
    usable = [(row, parsed) for row in rows if not (parsed := parse_rollout(row.response)).problem]
    variants = _encode(encoder, usable)
    left_out = len(rows) - len(variants)
    if not variants:
        return Sensitivity(math.nan, math.nan, math.nan, math.nan, 0, left_out)
    vectors = _embed(backbone, [row for variant in variants for row in variant], batch).view(len(variants), 5, -1)
    swapped, swapped_all, empty, other = (vectors[:, :1] * vectors[:, 1:]).sum(-1).mean(0).tolist()
    return Sensitivity(swapped, swapped_all, empty, other, len(variants), left_out)


def _encode(encoder: Encoder, rows: Sequence[tuple[Reasoned, Response]]) -> list[list[Row]]:
    """For each row that has another: own, swapped, swapped_all, empty, and the other row's own."""
    variants: list[list[Row]] = []
    for place, (row, own) in enumerate(rows):
        found = _other(rows, place)
        if found is None:
            continue
        other_row, other = found
        texts = [(own, own), (other, own), (other, other)]
        responses = [training_response(thought.reasoning, said.answer) for thought, said in texts]
        responses.append(training_response("", own.answer))
        try:
            encoded = [encoder.encode(row.prompt, row.media, response) for response in responses]
            encoded.append(encoder.encode(other_row.prompt, other_row.media, responses[2]))
        except BadInput:
            continue  # counted in `left_out`; the training itself rejects the row by name
        variants.append(encoded)
    return variants


def _other(rows: Sequence[tuple[Reasoned, Response]], place: int) -> tuple[Reasoned, Response] | None:
    own = rows[place][1]
    for row, parsed in (*rows[place + 1 :], *rows[:place]):
        if parsed.reasoning != own.reasoning and parsed.answer != own.answer:
            return row, parsed
    return None


@torch.inference_mode()
def _embed(backbone: Backbone, rows: Sequence[Row], batch: int) -> Tensor:
    """[rows, width], unit vectors; rows of like length go together."""
    was_training = backbone.model.training
    backbone.model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    parts = []
    for first in range(0, len(order), batch):
        chosen = collate([rows[i] for i in order[first : first + batch]], backbone.ids, backbone.device)
        hidden = hidden_states(backbone, chosen)
        parts.append(read_embeddings(hidden, chosen.ids, backbone.ids.gen, chosen.assistant).vectors.cpu())
    backbone.model.train(was_training)
    return torch.cat(parts)[torch.tensor(order).argsort()]
