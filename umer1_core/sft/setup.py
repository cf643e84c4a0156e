"""A recipe's `training` section as what the trainer works with: a model made ready, settings of a step, batches."""

from __future__ import annotations

from schemas.training import Training
from umer1_core.backbone.model import Backbone, add_lora, freeze_vision
from umer1_core.sft.data.lengths import Lengths
from umer1_core.sft.step.contrast import ContrastSettings
from umer1_core.sft.step.two_pass import StepSettings
from umer1_core.training.data.batches import Batches, weights_of
from umer1_core.training.data.cold_start import ColdStart

MINIATURE = "miniature"


def prepare(backbone: Backbone, training: Training) -> Backbone:
    """Freeze what is not trained, add adapters; recompute activations on a GPU, where memory is what counts."""
    model = backbone.model.train()
    if training.freeze_vision and training.model != MINIATURE:
        freeze_vision(backbone)
    if training.objective == "dume" and not model.config.tie_word_embeddings:
        model.lm_head.requires_grad_(False)
    if training.lora_rank:
        backbone = add_lora(backbone, training.lora_rank, training.lora_alpha, training.lora_dropout)
    if backbone.device.type == "cuda":
        model.gradient_checkpointing_enable()
    return backbone


def step_settings(training: Training) -> StepSettings:
    """The recipe's part in a step."""
    return StepSettings(
        contrast=ContrastSettings(
            training.direction,
            training.mask_equal,
            training.negatives_pool,
            training.hardness,
            training.cross_weight if training.objective == "ume" else 0.0,
        ),
        token_loss=training.token_loss,
        token_weight=training.token_weight,
        microbatch=training.released_microbatch,
        response_noise=training.response_noise if training.objective == "ume" else 0.0,
        discriminative_only=training.objective == "dume",
        pack_tokens=training.pack_tokens,
        layout=training.layout,
    )


def make_batches(training: Training, data: ColdStart, lengths: Lengths) -> Batches:
    """Which rows each step has: all that may be trained on and are not too long."""
    return Batches(
        data.source_codes,
        data.trainable & lengths.usable(training.max_tokens),
        training.batch_pairs,
        min(training.block_pairs, training.batch_pairs),
        training.seed,
        weights_of(data.sources, training.source_weights),
        lengths.of_pairs,
    )
