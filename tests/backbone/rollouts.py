"""Groups of random rollouts on mixed prompts, scored in one line, or one by one through the library."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize
from trl.trainer.utils import add_fused_lm_head

from tests.backbone.families import fresh, furthest, library_states
from umer1_core.backbone.collate import Row
from umer1_core.backbone.model import Backbone
from umer1_core.backbone.positions import read_embeddings
from umer1_core.backbone.shared_prefix import Group, SharedBatch, model_inputs

SIZES = (3, 8, 1, 2, 4, 1)


@dataclass(frozen=True)
class Made:
    """What a pass gives for all rollouts in order, and the gradient of a fixed random mixture of both."""

    log_probs: Tensor
    embeddings: Tensor
    gradients: dict[str, Tensor]


def scored(kind: str, dropout: float = 0.0) -> Backbone:
    backbone = fresh(kind, dropout=dropout)
    add_fused_lm_head(backbone.model, outputs=("log_probs", "entropy"))
    return backbone


def prompt_of(row: Row) -> Row:
    return Row(row.prompt, (), row.pixels, row.positions[:, : len(row.prompt)])


def groups_of(backbone: Backbone, rows: list[Row], sizes: tuple[int, ...] = SIZES) -> list[Group]:
    """Completions of 2 to 40 random words, `<gen_emb>` and the end of the turn at their end."""
    generator = torch.Generator().manual_seed(0)
    words = [i for i in range(len(backbone.processor.tokenizer)) if i not in (backbone.ids.image, backbone.ids.video)]

    def completion() -> tuple[int, ...]:
        length = int(torch.randint(0, 39, (1,), generator=generator))
        drawn = torch.randint(len(words), (length,), generator=generator).tolist()
        return (*(words[i] for i in drawn), backbone.ids.gen, backbone.ids.end_of_turn)

    return [
        Group(prompt_of(row), tuple(completion() for _ in range(size))) for row, size in zip(rows, sizes, strict=True)
    ]


def run(backbone: Backbone, batch: SharedBatch, **changes: object) -> tuple[Tensor, Tensor]:
    """Log-probs of all written ids and embeddings, of one call of the model."""
    seen = []
    handle = backbone.model.model.register_forward_hook(lambda _, __, output: seen.append(output.last_hidden_state))
    try:
        inputs = model_inputs(backbone, batch) | changes
        output = backbone.model(**inputs, shift_labels=batch.shift_labels, fused_lm_head=True)
    finally:
        handle.remove()
    log_probs = torch.cat([output.log_probs[0, start:end] for start, end in batch.predicting.tolist()])
    assert output.entropy.shape == output.log_probs.shape == batch.ids.shape
    return log_probs, read_embeddings(seen[0], batch.ids, backbone.ids.gen, batch.written).vectors


def made(backbone: Backbone, log_probs: Tensor, embeddings: Tensor) -> Made:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(values.shape, generator=generator) for values in (log_probs, embeddings)]
    backbone.model.zero_grad()
    ((log_probs * weights[0]).sum() + (embeddings * weights[1]).sum()).backward()
    found = {name: p.grad.clone() for name, p in backbone.model.named_parameters() if p.grad is not None}
    backbone.model.zero_grad()
    return Made(log_probs.detach(), embeddings.detach(), found)


def alone(kind: str, groups: list[Group]) -> Made:
    """Each rollout as a sequence of its own through the library."""
    backbone = fresh(kind, attention="sdpa")
    log_probs, embeddings = [], []
    for group in groups:
        for written in group.completions:
            states, ids = library_states(backbone, replace(group.prompt, response=written)), torch.tensor(written)
            logits = backbone.model.lm_head(states[len(group.prompt) - 1 : -1])
            log_probs.append(logits.log_softmax(-1).gather(1, ids.unsqueeze(1))[:, 0])
            last = int((ids == backbone.ids.gen).nonzero()[-1, 0])
            embeddings.append(normalize(states[len(group.prompt) + last], dim=0))
    return made(backbone, torch.cat(log_probs), torch.stack(embeddings))


def apart(one: Made, other: Made) -> float:
    """The furthest of log-probs, embeddings and gradients, each against its size."""
    assert one.log_probs.shape == other.log_probs.shape and one.embeddings.shape == other.embeddings.shape
    values = float((one.log_probs - other.log_probs).norm() / other.log_probs.norm())
    vectors = float((one.embeddings - other.embeddings).norm() / other.embeddings.norm())
    return max(values, vectors, furthest(one.gradients, other.gradients))
