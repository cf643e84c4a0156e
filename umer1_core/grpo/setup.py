"""A recipe's `grpo` section as what the trainer works with: TRL's arguments, the rewards, where rollouts come from."""

from __future__ import annotations

from pathlib import Path

import torch
from trl import GRPOConfig

from schemas.grpo import Grpo
from umer1_core.backbone.model import Backbone
from umer1_core.errors import Fatal
from umer1_core.grpo.rewards import Reward, SimilarityReward, format_reward
from umer1_core.grpo.rollouts.face import Rollouts, Sampling
from umer1_core.grpo.rollouts.with_transformers import WithTransformers
from umer1_core.grpo.similarity import RewardSettings
from umer1_core.training.ranks import Ranks

_BETAS = (0.9, 0.98)
_KEPT = 3


def trainer_arguments(grpo: Grpo, folder: Path, world: int) -> GRPOConfig:
    """TRL's arguments. Raises Fatal where the block cannot be split into passes."""
    own_pairs = grpo.block_pairs // world
    if own_pairs % grpo.micro_pairs:
        raise Fatal(
            f"{own_pairs} pairs of a process cannot be split into passes of {grpo.micro_pairs}.",
            "Set grpo.micro_pairs to a divisor of grpo.block_pairs over the number of processes.",
        )
    on_gpu = torch.cuda.is_available()
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=grpo.steps,
        per_device_train_batch_size=2 * grpo.micro_pairs * grpo.group,
        gradient_accumulation_steps=own_pairs // grpo.micro_pairs,
        num_generations=grpo.group,
        num_iterations=grpo.updates_per_block,
        max_completion_length=grpo.max_new_tokens,
        temperature=grpo.temperature,
        beta=grpo.beta,
        use_bias_correction_kl=False,  # equation 5 has the plain divergence
        epsilon=grpo.epsilon,
        epsilon_high=grpo.epsilon_high,
        loss_type=grpo.loss_type,
        scale_rewards="group",
        reward_weights=list(reward_weights(grpo).values()),
        multi_objective_aggregation="normalize_then_sum" if grpo.aggregation == "gdpo" else "sum_then_normalize",
        learning_rate=grpo.learning_rate,
        lr_scheduler_type=grpo.schedule,
        warmup_steps=grpo.warmup_steps,
        weight_decay=grpo.weight_decay,
        adam_beta1=_BETAS[0],
        adam_beta2=_BETAS[1],
        max_grad_norm=grpo.max_norm,
        seed=grpo.seed,
        use_cpu=not on_gpu,
        bf16=on_gpu,
        gradient_checkpointing=on_gpu,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        # A pass without media shows blanks, so every process uses every part.
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        shuffle_dataset=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=grpo.checkpoint_every,
        save_total_limit=_KEPT,
        report_to="none",
        disable_tqdm=True,
    )


def reward_weights(grpo: Grpo) -> dict[str, float]:
    """Of the components that add up to the reward, in the order TRL sees them."""
    return {"format": grpo.reward.format_weight, "embedding": grpo.reward.embedding_weight}


def make_rewards(grpo: Grpo) -> list[Reward]:
    """The format and equation 7; another callable may be put beside them."""
    reward = grpo.reward
    settings = RewardSettings(
        form=reward.form,
        threshold=reward.threshold,
        negatives=reward.negatives,
        hardest_k=reward.hardest_k,
        softmax_temperature=reward.softmax_temperature,
        min_group_std=grpo.min_group_std,
    )
    return [format_reward, SimilarityReward(settings)]


def make_rollouts(grpo: Grpo, backbone: Backbone, folder: Path, ranks: Ranks) -> Rollouts:
    """Where rollouts come from."""
    sampling = Sampling(grpo.temperature, grpo.max_new_tokens, banned_ids(backbone))
    return WithTransformers(backbone, sampling)


def banned_ids(backbone: Backbone) -> tuple[int, ...]:
    """What no rollout may hold: the placeholders of media and what stands around them."""
    config = backbone.model.config
    return tuple(
        sorted({backbone.ids.image, backbone.ids.video, config.vision_start_token_id, config.vision_end_token_id})
    )
