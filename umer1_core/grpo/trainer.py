"""TRL's GRPOTrainer with an embedding reward: six small overrides, no fork (UME-R1 section 3.3, equations 5 to 7).

TRL keeps what it is good at: the objective with its clipping, divergence and normalisers, the advantages, the loop, the
checkpoints, DeepSpeed and FSDP. What differs is where rows, rollouts, log-probs and rewards come from:

- `_get_train_sampler`: rows are sides; a block of pairs after the other, every side's group asked for once;
- `_prepare_inputs`: a block's rollouts are split by whole groups, so that a group shares its prompt in a forward pass;
- `_get_per_token_logps_and_entropies`: by `scoring.score_groups`, which sees pictures and clips;
- `_calculate_rewards`: of the whole block at once, from the policy's own states at `<gen_emb>`;
- `_generate_and_score_completions`, `_compute_loss`: wrapped, to hand on what the others need.

`tests/grpo/test_contract.py` holds the names and signatures that this relies on.
"""

from __future__ import annotations

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
from umer1_core.grpo.block import Rolled, WholeBlock, gather_block, vectors_of
from umer1_core.grpo.format import format_problem
from umer1_core.grpo.pairs import QUERY, BlockOrder, PairBlockSampler, RLPairs, row_and_side
from umer1_core.grpo.rewards import Components, Reward, score, total
from umer1_core.grpo.rollouts.face import Completion, Prompt, Rollouts, SaveWeights
from umer1_core.grpo.scoring import score_groups, score_in_packs
from umer1_core.grpo.sides import PairPrompts, SideReader
from umer1_core.training.data.pair_table import Rejection
from umer1_core.training.ranks import Ranks

Metrics = dict[str, float]


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
        rows, groups = self._groups(self._scored_rows or list(range(len(input_ids))))
        if torch.is_grad_enabled():
            scored = score_groups(
                model, self.parts.backbone, groups, compute_entropy, self._vectors_wanted, self._blanks
            )
            self._vectors = scored.vectors
        else:
            scored = score_in_packs(model, self.parts.backbone, groups, self._budget, False)
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
        trained = self._trained_rows()
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
        if self.loss_type != "dapo":
            loss = loss / self._share
        if self._vectors_wanted and self._vectors is not None and len(self._vectors):
            # Backward of InfoNCE over the whole block: its gradient by each embedding is known, as in stage 1.
            places, _ = self._groups(rows or [])
            loss = loss + self.parts.ranks.world * (self._vectors * inputs["anchor"][places].to(self._vectors)).sum()
        return loss

    # -- rollouts ----------------------------------------------------------------------------------------------------

    def _roll_out(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """TRL's `rollout_func`: one group for each side of the process's pairs."""
        started = time.monotonic()
        grpo, ranks = self.parts.grpo, self.parts.ranks
        block = self.state.global_step // self.num_iterations
        rows = [row_and_side(int(prompt))[0] for prompt in prompts[:: 2 * self.parts.grpo.group]]
        pairs = self.parts.sides.read(rows)
        for rejection in ranks.gather_objects([pair for pair in pairs if isinstance(pair, Rejection)]):
            self.parts.on_rejection(rejection)
        self.parts.rollouts.load(block, self.parts.save_weights)
        usable = [pair for pair in pairs if isinstance(pair, PairPrompts)]
        asked: list[Prompt] = [prompt for pair in usable for prompt in pair.prompts]
        made = self.parts.rollouts.sample(asked, grpo.group, rollout_seed(grpo.seed, block, ranks.rank))
        self._rolled = self._judged(block, pairs, made)
        if block + 1 < -(-self.args.max_steps // self.num_iterations):
            self.parts.sides.ahead(self.parts.order.share(block + 1, ranks.rank).tolist())
        self._ratio = None if self.parts.rollouts.reads_vectors else self._read_vectors()
        self.seconds["generate_s"] = time.monotonic() - started
        return self._as_trl_takes_them()

    def _judged(self, block: int, pairs: Sequence[PairPrompts | Rejection], made: list[list[Completion]]) -> Rolled:
        """Rollouts with their texts and what is wrong with their form."""
        backbone = self.parts.backbone
        groups = iter(made)
        completions = tuple(
            (tuple(next(groups)), tuple(next(groups))) if isinstance(pair, PairPrompts) else ((), ()) for pair in pairs
        )
        decode = backbone.processor.tokenizer.decode
        texts = tuple(tuple(tuple(decode(list(c.ids)) for c in side) for side in sides) for sides in completions)
        problems = tuple(
            tuple(tuple(format_problem(c.ids, backbone.ids, decode) for c in side) for side in sides)
            for sides in completions
        )
        width = backbone.model.config.text_config.hidden_size
        vectors = vectors_of(completions, width, self.parts.grpo.group).to(self.accelerator.device)
        return Rolled(block, tuple(pairs), completions, texts, problems, vectors, self.parts.grpo.group)

    def _read_vectors(self) -> Tensor:
        """For rollouts that came without: the policy's pass over them; returns policy over sampler for each token."""
        rows, groups = self._groups(list(range(2 * self.parts.grpo.group * len(self._rolled.pairs))), both=True)
        packs = self.parts.ranks.most(len(groups))
        with torch.no_grad():
            scored = score_in_packs(self.model, self.parts.backbone, groups, self._budget, True, packs if packs else 0)
        flat = self._rolled.vectors.flatten(0, 2)
        if scored.vectors is not None:
            flat[rows] = scored.vectors.to(flat)
        return self._token_ratio(rows, scored.log_probs)

    def _token_ratio(self, rows: list[int], log_probs: Tensor) -> Tensor:
        """[rows, longest]: what an advantage is multiplied with for a token that another kernel sampled, at most 2
        (truncated importance sampling); 1 where the sampler tells no log-probs."""
        everything = [c for sides in self._rolled.completions for side in sides for c in side]
        count = 2 * self.parts.grpo.group * len(self._rolled.pairs)
        longest = max((len(c.ids) for c in everything), default=1)
        ratio = torch.ones(count, longest, device=self.accelerator.device)
        gaps = []
        for row, completion, own in zip(rows, everything, log_probs, strict=True):
            if completion.logprobs is not None:
                told = torch.tensor(completion.logprobs, device=own.device)
                difference = own[: len(told)] - told
                gaps.append(difference.abs().mean())
                ratio[row, : len(told)] = difference.exp().clamp(max=2.0)
        if gaps:
            self._metrics["train"]["sampler_gap"].append(torch.stack(gaps).mean().item())
        return ratio

    def _as_trl_takes_them(self) -> dict[str, Any]:
        """Rows pair by pair; a rejected pair's are one token each."""
        ids = self.parts.backbone.ids
        prompt_ids: list[list[int]] = []
        completion_ids: list[list[int]] = []
        for pair, sides in zip(self._rolled.pairs, self._rolled.completions, strict=True):
            for side in (0, 1):
                if isinstance(pair, PairPrompts):
                    prompt_ids += [list(pair.prompts[side].row.prompt)] * self.parts.grpo.group
                    completion_ids += [list(completion.ids) for completion in sides[side]]
                else:
                    prompt_ids += [[ids.pad]] * self.parts.grpo.group
                    completion_ids += [[ids.end_of_turn]] * self.parts.grpo.group
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}

    # -- rows and groups ---------------------------------------------------------------------------------------------

    @property
    def _parts_of_a_block(self) -> int:
        """Passes with gradient that a process's rollouts of a block are split into."""
        return self.parts.order.pairs // self.parts.order.world // self.parts.grpo.micro_pairs

    @property
    def _budget(self) -> int:
        """Tokens of a pass without gradient: what the largest pass with gradient may have."""
        pairs = [pair for pair in range(len(self._rolled.pairs)) if self._rolled.used[pair]]
        largest = max((self._rolled.of_side(p, s).tokens() for p in pairs for s in (0, 1)), default=1)
        return 2 * self.parts.grpo.micro_pairs * largest

    def _sides_trained(self) -> tuple[int, ...]:
        return (QUERY,) if self.parts.grpo.train_sides == "query" else (0, 1)

    def _trained_rows(self) -> Tensor:
        """bool [rows] of this process."""
        used = torch.tensor(self._rolled.used).view(-1, 1, 1)
        side = torch.tensor([s in self._sides_trained() for s in (0, 1)]).view(1, 2, 1)
        return (used & side).expand(-1, -1, self._rolled.group).flatten()

    def _groups(self, rows: Sequence[int], both: bool = False) -> tuple[list[int], list[Group]]:
        """Of rows in whole groups: those that are trained on (both: also the side that is not), and their groups."""
        sides = (0, 1) if both else self._sides_trained()
        group = self._rolled.group
        found = [divmod(row // group, 2) for row in rows[::group]]
        chosen = [(pair, side) for pair, side in found if self._rolled.used[pair] and side in sides]
        places = [(2 * pair + side) * group + place for pair, side in chosen for place in range(group)]
        offset = rows[0] if rows else 0
        groups = [self._rolled.of_side(pair, side) for pair, side in chosen]
        return [place - offset for place in places], groups

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
