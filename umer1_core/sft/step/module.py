"""What is trained, as one module with one forward: a pack in, its embeddings and its token loss out.

It is this module that DDP, FSDP2 or DeepSpeed wrap, so that everything that touches a weight happens inside its
forward. Every pack touches the same parameters (a pack without media runs the merger on nothing), which sharded and
reduced gradients need.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from umer1_core.backbone.collate import IGNORED, Batch
from umer1_core.backbone.forward import hidden_states
from umer1_core.backbone.model import Backbone
from umer1_core.backbone.positions import Reading, read_embeddings
from umer1_core.backbone.vision import encode_tower
from umer1_core.errors import Fatal
from umer1_core.sft.step.token_loss import weighted_token_loss


class SFTModule(nn.Module):
    """A backbone in training.

    reuse: the frozen vision tower runs once a step, its output is handed from the first pass to the second;
    keep_vision: also packs without media run tower and merger (needed by several processes).
    """

    def __init__(self, backbone: Backbone, reuse: bool = False, keep_vision: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.model = backbone.model
        self.reuse, self.keep_vision = reuse, keep_vision

    def forward(self, batch: Batch, weights: Tensor | None = None, tower: Any = None) -> tuple[Any, ...]:
        """(disc [rows, width], gen [rows, width], weighted token loss, tower).

        weights: [rows], of each supervised token of a row in the weighted loss; None: no token loss.
        The vectors are normalised, and zero for rows whose turn is empty.
        """
        if tower is None and self.reuse:
            tower = encode_tower(self.backbone, batch.pixels, self.keep_vision)
        hidden = hidden_states(self.backbone, batch, tower=tower, keep_vision=self.keep_vision)
        ids = self.backbone.ids
        disc = read_embeddings(hidden, batch.ids, ids.disc, batch.user)
        gen = read_embeddings(hidden, batch.ids, ids.gen, batch.assistant)
        _require(disc, batch.user, "<disc_emb> in its prompt")
        _require(gen, batch.assistant, "<gen_emb> in its response")
        if weights is None:
            return disc.vectors, gen.vectors, hidden.new_zeros(()), tower
        return disc.vectors, gen.vectors, self._token_loss(hidden, batch, weights), tower

    def _token_loss(self, hidden: Tensor, batch: Batch, weights: Tensor) -> Tensor:
        """Only supervised rows meet the vocabulary. The state before a token predicts it; rows follow one another."""
        labels = batch.labels.flatten()
        places = (labels != IGNORED).nonzero()[:, 0]
        spans = batch.assistant
        of_token = weights.repeat_interleave(spans[:, 1] - spans[:, 0])
        with self.backbone.computing():
            return weighted_token_loss(
                hidden.flatten(0, 1)[places - 1], self.model.lm_head.weight, labels[places], of_token
            )


def _require(reading: Reading, spans: Tensor, what: str) -> None:
    """The encoder refuses such rows by name; what gets this far is a fault of the batch, never read elsewhere."""
    full = (spans[:, 1] > spans[:, 0]).tolist()
    if any(needed and status != "ok" for needed, status in zip(full, reading.statuses, strict=True)):
        raise Fatal(f"A row of the batch has no {what}.", "Publish the data set again with this version of umer1.")
