"""A recipe's `grpo` section as what the trainer works with: TRL's arguments, the rewards, where rollouts come from."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import HfDeepSpeedConfig
from trl import GRPOConfig

from schemas.grpo import Grpo
from umer1_core.backbone.model import Backbone
from umer1_core.errors import Fatal
from umer1_core.grpo.rewards import Reward, SimilarityReward, format_reward
from umer1_core.grpo.rollouts.face import Rollouts, Sampling
from umer1_core.grpo.rollouts.with_transformers import WithTransformers
from umer1_core.grpo.similarity import RewardSettings
from umer1_core.training.launch import launched_kind
from umer1_core.training.ranks import Ranks

# What no recipe changes.
_ALWAYS: dict[str, Any] = {
    "use_bias_correction_kl": False,  # equation 5 has the plain divergence
    "scale_rewards": "group",
    "adam_beta1": 0.9,
    "adam_beta2": 0.98,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    # A pass without media shows blanks, so every process uses every part.
    "ddp_find_unused_parameters": False,
    "remove_unused_columns": False,
    "shuffle_dataset": False,
    "dataloader_num_workers": 0,
    "dataloader_pin_memory": False,
    "logging_steps": 1,
    "logging_nan_inf_filter": False,
    "save_strategy": "steps",
    "report_to": "none",
    "disable_tqdm": True,
}
_KEPT = 3
_USUAL_STAGE = 2  # accelerate's, where a config names none


def trainer_arguments(grpo: Grpo, folder: Path, world: int) -> GRPOConfig:
    """TRL's arguments; `micro_pairs` is lowered to what divides a process's pairs.

    Raises Fatal where it was launched in a way that this stage cannot be trained in.
    """
    _check_launch(grpo)
    own_pairs = grpo.block_pairs // world
    micro_pairs = math.gcd(own_pairs, grpo.micro_pairs)
    on_gpu = torch.cuda.is_available()
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=grpo.steps,
        per_device_train_batch_size=2 * micro_pairs * grpo.group,
        gradient_accumulation_steps=own_pairs // micro_pairs,
        num_generations=grpo.group,
        num_iterations=grpo.updates_per_block,
        max_completion_length=grpo.max_new_tokens,
        temperature=grpo.temperature,
        beta=grpo.beta,
        epsilon=grpo.epsilon,
        epsilon_high=grpo.epsilon_high,
        loss_type=grpo.loss_type,
        reward_weights=list(reward_weights(grpo).values()),
        multi_objective_aggregation="normalize_then_sum" if grpo.aggregation == "gdpo" else "sum_then_normalize",
        learning_rate=grpo.learning_rate,
        lr_scheduler_type=grpo.schedule,
        warmup_steps=grpo.warmup_steps,
        weight_decay=grpo.weight_decay,
        max_grad_norm=grpo.max_norm,
        seed=grpo.seed,
        use_cpu=not on_gpu,
        bf16=on_gpu,
        gradient_checkpointing=on_gpu,
        save_steps=grpo.checkpoint_every,
        save_total_limit=_kept(grpo),
        **_ALWAYS,
    )


def _check_launch(grpo: Grpo) -> None:
    """Raises Fatal for ZeRO-3, and where the launch leaves no reference."""
    kind = launched_kind()
    if kind == "deepspeed" and _zero_stage() == 3:
        raise Fatal(
            "Reinforcement learning reads whole weights in every process, which ZeRO-3 keeps split.",
            "Launch with ZeRO-2 or FSDP2: deploy/accelerate/zero2.yaml, deploy/accelerate/fsdp2.yaml.",
        )
    if grpo.beta and kind == "fsdp2" and os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING") == "true":
        raise Fatal(
            "The reference would be empty in all processes but the first.",
            "Set fsdp_cpu_ram_efficient_loading: false in the accelerate config, as deploy/accelerate/fsdp2.yaml does.",
        )


def _zero_stage() -> int:
    """Of the accelerate config, or of the file that it names as `deepspeed_config_file`."""
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    named = HfDeepSpeedConfig(file).get_value("zero_optimization.stage") if file else None
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "") if named in (None, "auto") else named
    return int(stage or _USUAL_STAGE)


def _kept(grpo: Grpo) -> int:
    """Checkpoints to keep: also when a guard finds a whole window bad, one from before it is still there."""
    return max(_KEPT, -(-grpo.guards.window // grpo.checkpoint_every) + 1) if grpo.guards.enabled else _KEPT


def reward_weights(grpo: Grpo) -> dict[str, float]:
    """Of the components that add up to the reward, in the order TRL sees them."""
    return {"format": grpo.reward.format_weight, "embedding": grpo.reward.embedding_weight}


def reward_settings(grpo: Grpo) -> RewardSettings:
    """Equation 7 as the recipe wants it."""
    reward = grpo.reward
    return RewardSettings(
        form=reward.form,
        threshold=reward.threshold,
        negatives=reward.negatives,
        hardest_k=reward.hardest_k,
        softmax_temperature=reward.softmax_temperature,
        min_group_std=grpo.min_group_std,
    )


def make_rewards(grpo: Grpo) -> list[Reward]:
    """The format and equation 7; another callable may be put beside them."""
    return [format_reward, SimilarityReward(reward_settings(grpo))]


def make_rollouts(grpo: Grpo, backbone: Backbone, folder: Path, ranks: Ranks) -> Rollouts:
    """Where rollouts come from."""
    sampling = Sampling(grpo.temperature, grpo.max_new_tokens, banned_ids(backbone))
    if grpo.rollouts == "transformers":
        return WithTransformers(backbone, sampling)
    # vLLM's client is imported where it is used: transformers needs none of it.
    if grpo.rollouts == "server":
        from umer1_core.grpo.rollouts.server import FromServer

        place = Path(grpo.server_weights)
        return FromServer(grpo.server, sampling, backbone.ids, place, main=ranks.main, barrier=ranks.barrier)
    from umer1_core.grpo.rollouts.colocated import Colocated

    return Colocated(
        sampling,
        backbone.ids,
        folder / "policy",
        ranks.device,
        grpo.max_prompt_tokens + grpo.max_new_tokens,
        main=ranks.main,
        barrier=ranks.barrier,
        memory=grpo.vllm_memory,
    )


def banned_ids(backbone: Backbone) -> tuple[int, ...]:
    """What no rollout may hold: the placeholders of media and what stands around them."""
    config = backbone.model.config
    return tuple(
        sorted({backbone.ids.image, backbone.ids.video, config.vision_start_token_id, config.vision_end_token_id})
    )
