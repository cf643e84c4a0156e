"""The recipe's `grpo` section: stage 2, its presets and every option (UME-R1 section 3.3, equations 5 to 7)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from schemas.grpo_guards import GrpoGuards
from schemas.presets import with_preset
from schemas.sources import Section

# What each preset says where a recipe is silent (`released`: what the authors' code does instead of the paper's words).
GRPO_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {"mask_equal": False, "min_group_std": 0.0},
    "released": {"epsilon_high": 0.28, "loss_type": "dr_grpo", "mask_equal": False, "min_group_std": 0.0},
}


class Reward(Section):
    """What a rollout earns: the format, and what its embedding finds among the other groups of the block (eq. 7)."""

    form: Literal["product", "no_gap", "no_ranking", "threshold"] = Field(
        default="product", description="product: ranking times gap; the others are the ablations of table 2"
    )
    threshold: float = Field(default=0.5, ge=-1, le=1, description="With form threshold: the similarity to exceed")
    negatives: Literal["all", "hardest", "softmax"] = Field(
        default="all", description="all: their mean; hardest: of the nearest k; softmax: weighted by their nearness"
    )
    hardest_k: int = Field(default=8, ge=1)
    softmax_temperature: float = Field(default=0.5, gt=0)
    format_weight: float = Field(default=1.0, ge=0)
    embedding_weight: float = Field(default=1.0, ge=0)


class Grpo(Section):
    """Stage 2. Defaults follow the paper; where paper and released code differ, the preset says which is meant."""

    preset: Literal["default", "paper", "released"] = "default"
    enabled: bool = False
    accelerate: str = Field(
        default="", description="An accelerate config file (deploy/accelerate/) to launch several processes with"
    )
    # -- rollouts
    steps: int = Field(
        default=348, ge=1, description="Optimizer steps; a block a step, 348 are an epoch of 11,136 pairs"
    )
    block_pairs: int = Field(
        default=32, ge=1, description="Pairs that are each other's negatives, of one source where it has so many"
    )
    source_weights: dict[str, float] = Field(
        default={}, description="How often an epoch visits a source's pairs; 1 where it is not named, 0: not at all"
    )
    group: int = Field(default=8, ge=2, description="Rollouts of a side, G")
    train_sides: Literal["both", "query"] = Field(default="both", description="both: as released, losses averaged")
    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=2_048, ge=8)
    max_prompt_tokens: int = Field(default=12_288, ge=64, description="Longer prompts are rejected by name")
    rollouts: Literal["transformers", "server", "colocated"] = Field(
        default="transformers", description="server, colocated: vLLM with the policy's weights, loaded anew every step"
    )
    server: str = Field(default="", description="Base URL of the vLLM server, as http://host:8000")
    server_weights: str = Field(default="", description="The folder that the server serves; weights are written there")
    vllm_memory: float = Field(default=0.3, gt=0, lt=1, description="colocated: the GPU's share for weights and cache")
    on_bad_row: Literal["skip", "stop"] = Field(default="skip", description="A pair that cannot be used is recorded")
    # -- objective
    reward: Reward = Reward()
    mask_equal: bool = Field(default=True, description="Equal targets, and targets of equal queries, are no negatives")
    min_group_std: float = Field(
        default=1e-4, ge=0, description="A group's embedding reward that spreads less is noise, and counts as equal"
    )
    aggregation: Literal["sum", "gdpo"] = Field(
        default="sum", description="gdpo: format and embedding are normalised in their group apart, then added"
    )
    epsilon: float = Field(default=0.2, gt=0, lt=1)
    epsilon_high: float | None = Field(default=None, gt=0, description="Upper clip; empty: as epsilon")
    beta: float = Field(default=0.04, ge=0, description="Weight of the divergence from the SFT model")
    loss_type: Literal["grpo", "dr_grpo", "dapo"] = Field(
        default="grpo", description="grpo: mean of a rollout's tokens (eq. 5); dr_grpo: by max_new_tokens, as released"
    )
    updates_per_block: int = Field(default=1, ge=1, description="Optimizer steps on the same rollouts")
    anchor: float = Field(default=0.0, ge=0, description="Weight of InfoNCE on the rollouts' own embeddings")
    anchor_temperature: float = Field(default=0.05, gt=0)
    # -- what is trained, and how
    freeze_vision: bool = Field(default=False, description="As released, RL trains the vision tower too")
    learning_rate: float = Field(default=1e-6, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_norm: float = Field(default=1.0, gt=0, description="The gradient is clipped to this norm")
    micro_pairs: int = Field(
        default=4, ge=1, description="Pairs whose groups share a forward and a backward pass; lowered to a divisor"
    )
    guards: GrpoGuards = GrpoGuards()
    # -- looking on
    evaluate_every: int = Field(
        default=50, ge=0, description="Steps between evaluations of the held-out slice; 0: none"
    )
    evaluate_tokens: int = Field(default=1_024, ge=8, description="Longest completion of such an evaluation")
    checkpoint_every: int = Field(default=50, ge=1)
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        return with_preset(given, GRPO_PRESETS)

    @model_validator(mode="after")
    def _fits_together(self) -> Grpo:
        if self.checkpoint_every % self.updates_per_block:
            raise ValueError("checkpoint_every must be a multiple of updates_per_block: rollouts are not kept")
        if self.rollouts == "server" and not (self.server and self.server_weights):
            raise ValueError("rollouts: server needs `server`, its address, and `server_weights`, the folder it serves")
        return self

    @property
    def rollouts_a_step(self) -> int:
        """Of both sides."""
        return 2 * self.block_pairs * self.group
