"""The recipe's `training` section: stage 1, its presets and every option."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from schemas.presets import with_preset
from schemas.sources import Section

# What each preset says where a recipe is silent (UME-R1 section 3.3; `released`: what the authors' code does instead).
TRAINING_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {"direction": "q2t", "token_loss": "paper", "mask_equal": False},
    "released": {"token_loss": "released", "negatives_pool": 256, "mask_equal": False},
    "fast": {"lora_rank": 16, "learning_rate": 1e-4, "batch_pairs": 256, "steps": 1_000, "warmup_steps": 50},
}


class Training(Section):
    """Stage 1. Defaults follow the paper; where paper and released code differ, the preset says which is meant."""

    preset: Literal["default", "paper", "released", "fast"] = Field(
        default="default",
        description="paper: its equations; released: the authors' code; fast: LoRA for a first look on one GPU",
    )
    model: str = Field(
        default="Qwen/Qwen2-VL-2B-Instruct",
        description="Folder or hub name of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL, or `miniature`",
    )
    enabled: bool = True
    objective: Literal["ume", "dume"] = Field(
        default="ume", description="dume: the discriminative-only baseline, without reasoning and token loss"
    )
    accelerate: str = Field(
        default="", description="An accelerate config file (deploy/accelerate/) to launch several processes with"
    )
    # -- batches
    steps: int = Field(default=5_000, ge=1)
    batch_pairs: int = Field(default=1_024, ge=2, description="Pairs a step, over all processes: all are negatives")
    block_pairs: int = Field(default=512, ge=1, description="Of these, so many in a row come from one source")
    source_weights: dict[str, float] = Field(
        default={}, description="How often an epoch visits a source's rows; 1 where it is not named"
    )
    rl_apart: bool = Field(
        default=False, description="Leave the RL set's pairs to stage 2: a reward tells more of pairs that are new"
    )
    hard_negatives: int = Field(default=0, ge=0, description="Of a pair's own `negatives`, how many enter the loss")
    max_tokens: int = Field(default=12_288, ge=64, description="Longest sequence; longer ones are rejected by name")
    pack_tokens: int = Field(default=16_384, ge=64, description="Tokens in one forward pass; bounds the memory")
    layout: Literal["packed", "padded"] = Field(
        default="packed", description="packed: sequences in one row, no padding; padded: for attention that needs it"
    )
    loader_workers: int = Field(default=2, ge=0, description="Threads that read the next steps' rows; 0: none")
    on_bad_row: Literal["skip", "stop"] = Field(default="skip", description="A row that cannot be used is recorded")
    on_bad_step: Literal["skip", "stop"] = Field(
        default="skip", description="A step without rows, or with a loss or gradient that is no number"
    )
    max_bad_steps: int = Field(default=10, ge=1, description="So many in a row end the training even with skip")
    # -- losses
    temperature: float = Field(default=0.02, gt=0)
    learn_temperature: bool = False
    direction: Literal["both", "q2t"] = Field(default="both", description="both: released code; q2t: eqs. 1 and 2")
    mask_equal: bool = Field(default=True, description="Equal targets, and targets of equal queries, are no negatives")
    negatives_pool: int = Field(
        default=0, ge=0, description="Pairs that are each other's negatives; 0: the whole step; released: 256"
    )
    hardness: float = Field(default=0.0, ge=0, description="Weight of hard in-batch negatives; 0: all the same")
    cross_weight: float = Field(
        default=0.0, ge=0, description="Weight of disc(query) against gen(target): one index for both query modes"
    )
    token_loss: Literal["token_mean", "paper", "released"] = Field(
        default="token_mean",
        description="paper: eq. 3, sums a sample; released: means of micro-batches; token_mean: of the whole step",
    )
    token_weight: float = Field(default=1.0, ge=0, description="Of the token loss, beside the contrastive terms")
    released_microbatch: int = Field(default=4, ge=1, description="Pairs of a micro-batch of the released token loss")
    response_noise: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the response's words that the model reads wrong, labels kept"
    )
    # -- what is trained, and how
    freeze_vision: bool = Field(default=True, description="Train merger and language model; a miniature trains all")
    reuse_features: bool = Field(default=True, description="Run a frozen vision tower once a step, not in both passes")
    lora_rank: int = Field(default=0, ge=0, description="0: all weights; otherwise LoRA on the language model")
    lora_alpha: int = Field(default=32, ge=1)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    learning_rate: float = Field(default=5e-5, gt=0)
    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = Field(default=0.0, ge=0)
    max_norm: float = Field(default=1.0, gt=0, description="The gradient is clipped to this norm")
    warmup_steps: int = Field(default=150, ge=0)
    schedule: Literal["cosine", "linear"] = Field(default="cosine", description="How the rate falls after the warm-up")
    # -- looking on
    held_out_pairs: int = Field(default=0, ge=0, description="Pairs kept out of training to evaluate on meanwhile")
    evaluate_every: int = Field(default=0, ge=0, description="Steps between evaluations; 0: none")
    evaluate_tokens: int = Field(default=1_024, ge=8, description="Longest completion of such an evaluation")
    checkpoint_every: int = Field(default=500, ge=1)
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        return with_preset(given, TRAINING_PRESETS)

    @model_validator(mode="after")
    def _fits_together(self) -> Training:
        if self.pack_tokens < self.max_tokens:
            raise ValueError("pack_tokens must be at least max_tokens: a pack holds a sequence whole")
        if self.evaluate_every and not self.held_out_pairs:
            raise ValueError("evaluate_every needs held_out_pairs, the pairs to evaluate on")
        return self
