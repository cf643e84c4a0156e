"""TRL's GRPOTrainer with an embedding reward: seven small overrides, no fork (UME-R1 section 3.3, equations 5 to 7).

TRL keeps what it is good at: the objective with its clipping, divergence and normalisers, the advantages, the loop, the
checkpoints, DeepSpeed and FSDP. What differs is where rows, rollouts, log-probs and rewards come from:

- `_get_train_sampler`: rows are sides; a block of pairs after the other, every side's group asked for once;
- `_prepare_inputs`: a block's rollouts are split by whole groups, so that a group shares its prompt in a forward pass;
- `_get_per_token_logps_and_entropies`: by `scoring.score_groups`, which sees pictures and clips;
- `_calculate_rewards`: of the whole block at once, from the policy's own states at `<gen_emb>`;
- `_generate_and_score_completions`, `_compute_loss`: wrapped, to hand on what the others need;
- `_load_from_checkpoint`: by the names that these models have in a checkpoint.

`tests/grpo/test_contract.py` holds the names and signatures that this relies on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from blake3 import blake3
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Sampler
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from schemas.grpo import Grpo
from umer1_core.backbone.attention import ATTENTION
from umer1_core.backbone.model import Backbone, use_attention
from umer1_core.backbone.shared_prefix import Group, blank_media
from umer1_core.grpo.anchor import anchor_gradient
from umer1_core.grpo.block import WholeBlock, gather_block
from umer1_core.grpo.pairs import QUERY, BlockOrder, PairBlockSampler, RLPairs, row_and_side
from umer1_core.grpo.rewards import Components, Reward, score, total
from umer1_core.grpo.rolled import BOTH, roll
from umer1_core.grpo.rollouts.face import Prompt, Rollouts, SaveWeights
from umer1_core.grpo.scoring import Scored, score_groups, score_in_packs
from umer1_core.grpo.sides import PairPrompts, SideReader
from umer1_core.training.data.pair_table import Rejection
from umer1_core.training.ranks import Ranks

Metrics = dict[str, float]

# TRL's means over the trained tokens of a pass.
_OF_TOKENS = {"kl", "entropy", "clip_ratio/region_mean"}


@dataclass(frozen=True, slots=True)
class Scores:
    """What a block's rollouts earned. rewards, advantages: [2, N, G]; components by name, the same."""

    block: WholeBlock
    components: Components
    rewards: Tensor
    advantages: Tensor


@dataclass(frozen=True, slots=True)
class Parts:
    """What a trainer works with. weights: of the components that add up to the reward, in the order TRL sees them;
    on_rejection, on_block: called on every rank alike, for each rejected pair of a block, and for the block."""

    backbone: Backbone
    grpo: Grpo
    pairs: RLPairs
    order: BlockOrder
    sides: SideReader
    rollouts: Rollouts
    rewards: Sequence[Reward]
    weights: dict[str, float]
    ranks: Ranks
    save_weights: SaveWeights
    on_rejection: Callable[[Rejection], None]
    on_block: Callable[[Scores], Metrics]


class EmbeddingGRPOTrainer(GRPOTrainer):
    """Trains `parts.backbone` in place, whose attention it sets; see `setup.trainer_arguments` for `args`."""

    args: GRPOConfig
    _buffered_inputs: Any

    def __init__(self, parts: Parts, args: GRPOConfig, callbacks: list[TrainerCallback]) -> None:
        self.parts = parts
        self.seconds = {"generate_s": 0.0, "score_s": 0.0}
        self._scored_rows: list[int] | None = None
        self._vectors_wanted = False
        self._vectors: Tensor | None = None
        self._blanks = blank_media(parts.backbone) if parts.ranks.world > 1 else ()
        names: list[Any] = [_named(name) for name in parts.weights]
        super().__init__(
            model=parts.backbone.model,
            reward_funcs=names,
            args=args,
            train_dataset=Dataset.from_dict({"prompt": [str(i) for i in range(2 * len(parts.pairs))]}),
            processing_class=parts.backbone.processor.tokenizer,
            callbacks=callbacks,
            rollout_func=self._roll_out,
        )
        use_attention(parts.backbone.model, ATTENTION)
        if self.ref_model is not None:
            use_attention(self.accelerator.unwrap_model(self.ref_model), ATTENTION)

    @property
    def nothing_used(self) -> bool:
        """Whether every pair of the present block was rejected, on all processes."""
        return not bool(self._whole[0].used.any())

    # -- overrides ---------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Sampler:
        blocks = -(-self.args.max_steps // self.num_iterations)
        return PairBlockSampler(self.parts.order, blocks, self.num_iterations * self._parts_of_a_block)

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """A part of the block's rollouts, whole groups; the base class would shuffle them."""
        if self._buffered_inputs is None or self._step % (self._parts_of_a_block * self.num_iterations) == 0:
            scored = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split_tensor_dict(scored, self._parts_of_a_block)
        inputs: dict[str, Any] = self._buffered_inputs[self._step % self._parts_of_a_block]
        return inputs

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        """Of the rows that `_compute_loss` names, with gradient, or of all the process has, in packs without."""
        rows, groups = self._rolled.groups(self._scored_rows or range(len(input_ids)), self._sides_trained)
        if torch.is_grad_enabled():
            scored = score_groups(
                model, self.parts.backbone, groups, compute_entropy, self._vectors_wanted, self._blanks
            )
            self._vectors = scored.vectors
        else:
            scored = self._in_packs(model, groups, vectors=False)
        shape = (len(input_ids), logits_to_keep)
        log_probs = _placed(scored.log_probs, rows, shape, input_ids.device) + scored.anything
        entropies = _placed(scored.entropies, rows, shape, input_ids.device) if scored.entropies is not None else None
        return log_probs, entropies, None

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        """[rows of all ranks, weighted components], nan for a rejected pair's."""
        block = gather_block(self._rolled, self.parts.ranks, self.parts.grpo.mask_equal)
        components = score(block.rollouts, self.parts.rewards)
        self._whole = (block, components, total(components, self.parts.weights))
        columns = []
        for name in self.parts.weights:
            values = torch.where(block.used.view(1, -1, 1), components[name], torch.nan)
            columns.append(values.transpose(0, 1).flatten())  # pair by pair, as TRL's rows are
        return torch.stack(columns, dim=1).float().to(self.accelerator.device)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        started = time.monotonic()
        self._scored_rows = None
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        block, components, rewards = self._whole
        count, group = len(self._rolled.pairs), self._rolled.group
        own = output["advantages"].view(count, 2, group)
        advantages = self.parts.ranks.gather(own.contiguous()).transpose(0, 1)
        trained = self._rolled.trained(self._sides_trained)
        output["row"] = torch.arange(len(trained))
        output["completion_mask"] = output["completion_mask"] * trained.to(output["completion_mask"])[:, None]
        counted = self.parts.ranks.total(torch.stack([trained.sum(), torch.tensor(len(trained))]).to(self.args.device))
        # Rows that are not trained on weigh nothing; the others weigh as if they were all.
        self._share = (counted[0] / counted[1]).clamp(min=1 / counted[1]).item()
        items = self.parts.ranks.total(output["completion_mask"].sum())
        output["num_items_in_batch"] = items
        if self._ratio is not None:
            output["advantages"] = output["advantages"][:, None] * self._ratio
        if self.parts.grpo.anchor:
            loss, output["anchor"] = self._anchor(block)
            self._metrics["train"]["anchor"].append(loss)
        for name, value in self.parts.on_block(Scores(block, components, rewards, advantages)).items():
            self._metrics["train"][name].append(value)
        self.seconds["score_s"] = time.monotonic() - started - self.seconds["generate_s"]
        return output

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._scored_rows = inputs["row"].tolist()
        self._vectors_wanted = "anchor" in inputs
        try:
            loss: Tensor = super()._compute_loss(model, inputs)
        finally:
            rows, self._scored_rows = self._scored_rows, None
        if not int(self.parts.ranks.total(inputs["completion_mask"].sum())):
            for name in self._metrics["train"].keys() & _OF_TOKENS:  # of no token: no number, where TRL says 0
                self._metrics["train"][name][-1] = math.nan
        if self.loss_type != "dapo":
            loss = loss / self._share
        if self._vectors_wanted and self._vectors is not None and len(self._vectors):
            # Backward of InfoNCE over the whole block: its gradient by each embedding is known, as in stage 1.
            places, _ = self._rolled.groups(rows or [], self._sides_trained)
            loss = loss + self.parts.ranks.world * (self._vectors * inputs["anchor"][places].to(self._vectors)).sum()
        return loss

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """`save_pretrained` renames the weights of these models; the base class would find none of them and go on with
        the base checkpoint's. FSDP writes a format of its own. Raises RuntimeError where a weight is missing."""
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        policy = self.accelerator.unwrap_model(self.model)
        saved = type(policy).from_pretrained(resume_from_checkpoint, dtype=policy.dtype)
        policy.load_state_dict(saved.state_dict())

    # -- rollouts ----------------------------------------------------------------------------------------------------

    def _roll_out(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """TRL's `rollout_func`: one group for each side of the process's pairs."""
        started = time.monotonic()
        grpo, ranks = self.parts.grpo, self.parts.ranks
        block = self.state.global_step // self.num_iterations
        rows = [row_and_side(int(prompt))[0] for prompt in prompts[:: 2 * grpo.group]]
        pairs = self.parts.sides.read(rows)
        for rejection in ranks.gather_objects([pair for pair in pairs if isinstance(pair, Rejection)]):
            self.parts.on_rejection(rejection)
        self.parts.rollouts.load(block, self.parts.save_weights)
        usable = [pair for pair in pairs if isinstance(pair, PairPrompts)]
        asked: list[Prompt] = [prompt for pair in usable for prompt in pair.prompts]
        made = self.parts.rollouts.sample(asked, grpo.group, rollout_seed(grpo.seed, block, ranks.rank))
        self._rolled = roll(pairs, made, grpo.group, self.parts.backbone, self.accelerator.device)
        if block + 1 < -(-self.args.max_steps // self.num_iterations):
            self.parts.sides.ahead(self.parts.order.share(block + 1, ranks.rank).tolist())
        self._ratio = None if self.parts.rollouts.reads_vectors else self._read_vectors()
        self.seconds["generate_s"] = time.monotonic() - started
        prompt_ids, completion_ids = self._rolled.token_ids(self.parts.backbone.ids)
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}

    def _read_vectors(self) -> Tensor:
        """For rollouts that came without: the policy's pass over them; returns policy over sampler for each token."""
        rows, groups = self._rolled.groups(range(self._rolled.rows), BOTH)
        scored = self._in_packs(self.model, groups, vectors=True)
        flat = self._rolled.vectors.flatten(0, 2)
        if scored.vectors is not None:
            flat[rows] = scored.vectors.to(flat)
        ratio, gap = self._rolled.token_ratio(rows, scored.log_probs)
        if gap is not None:
            self._metrics["train"]["sampler_gap"].append(gap)
        return ratio

    def _in_packs(self, model: Any, groups: list[Group], vectors: bool) -> Scored:
        """Without gradient, as many tokens a pass as the largest groups of `micro_pairs` pairs have."""
        budget, most = 2 * self.parts.grpo.micro_pairs * self._rolled.largest, self.parts.ranks.most
        return score_in_packs(model, self.parts.backbone, groups, budget, vectors, self._blanks, most)

    @property
    def _parts_of_a_block(self) -> int:
        """Passes with gradient that a process's rollouts of a block are split into."""
        return self.args.gradient_accumulation_steps

    @property
    def _sides_trained(self) -> tuple[int, ...]:
        return (QUERY,) if self.parts.grpo.train_sides == "query" else BOTH

    def _anchor(self, block: WholeBlock) -> tuple[float, Tensor]:
        """The loss, and its gradient by the embeddings of the process's rows [rows, width]."""
        loss, gradient = anchor_gradient(block.rollouts, self.parts.grpo.anchor_temperature)
        count = len(self._rolled.pairs)
        first = self.parts.ranks.rank * count
        own = gradient[:, first : first + count].transpose(0, 1).flatten(0, 2)
        return loss, self.parts.grpo.anchor * own


def rollout_seed(seed: int, block: int, rank: int) -> int:
    """Of a process's rollouts of a block, so that a resumed run samples what the interrupted one did."""
    return int.from_bytes(blake3(f"{seed}/{block}/{rank}".encode()).digest()[:7], "big")


def _named(name: str) -> Callable[..., list[float]]:
    """What TRL lists as a reward function, for its name; `_calculate_rewards` makes the rewards."""

    def component(**_: Any) -> list[float]:
        raise RuntimeError("Rewards are of whole blocks.")

    component.__name__ = name
    return component


def _placed(values: Tensor, rows: Sequence[int], shape: tuple[int, int], device: torch.device) -> Tensor:
    """[rows, longest] into a matrix of zeros at the places `rows`."""
    empty = torch.zeros(shape, device=device)
    if not len(rows):
        return empty
    wide = pad(values, (0, shape[1] - values.shape[1])).to(device)
    return empty.index_copy(0, torch.tensor(rows, device=device), wide)
