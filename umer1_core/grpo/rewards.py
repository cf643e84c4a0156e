"""Rewards as plain callables: a block of rollouts in, named components of every rollout out (UME-R1 section 3.3).

Guarantees: no I/O, no distributed state, no gradient; components stay apart until `total`. A reward of one's own, of an
embedder that is kept frozen or of the reasoning itself, is one more callable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from umer1_core.errors import Fatal, RecipeError
from umer1_core.grpo.similarity import RewardSettings, embedding_reward
from umer1_core.pairs import Side

Components = dict[str, Tensor]
"""Of each component by its name: [2, N, G], query groups and then target groups."""


@dataclass(frozen=True, slots=True)
class RolloutBlock:
    """All rollouts of one step: N pairs of one source, G rollouts of each side; query groups, then target groups.

    vectors: [2, N, G, width], of unit length; valid: bool [2, N, G], the rollouts whose embedding counts;
    not_negative: bool [N, N], query by target, see `embedding_reward`; None where all differ.
    sides: 2·N, what was reasoned about. ids, texts, problems: one for each rollout, 2·N·G, in the order of
    `vectors.flatten(0, 2)`; problems: of `format.format_problem`, empty where the form is good. Raises Fatal where
    these do not fit each other.
    """

    vectors: Tensor
    valid: Tensor
    not_negative: Tensor | None
    sides: Sequence[Side]
    ids: Sequence[Sequence[int]]
    texts: Sequence[str]
    problems: Sequence[str]

    def __post_init__(self) -> None:
        _, pairs, _ = shape = self.valid.shape
        rollouts, square = self.valid.numel(), (pairs, pairs)
        counts = {"ids": len(self.ids), "texts": len(self.texts), "problems": len(self.problems)}
        wrong = [f"{name} has {count} rollouts" for name, count in counts.items() if count != rollouts]
        wrong += [f"vectors is {list(self.vectors.shape)}"] * (self.vectors.shape[:3] != shape)
        wrong += [f"sides has {len(self.sides)}"] * (len(self.sides) != 2 * pairs)
        wrong += ["not_negative is no [N, N]"] * (self.not_negative is not None and self.not_negative.shape != square)
        if wrong:
            raise Fatal(f"The parts of a block of rollouts do not fit {list(shape)}: {'; '.join(wrong)}.")


Reward = Callable[[RolloutBlock], Components]
"""One or more named components of every rollout in a block: a function, or an object with its settings."""

Embedder = Callable[[RolloutBlock], Tensor]
"""[2, N, G, width] of unit length, from a block: the policy's own vectors, or those of a model that is kept frozen."""


def policy_vectors(block: RolloutBlock) -> Tensor:
    """The policy's own states at `<gen_emb>`."""
    return block.vectors


def format_reward(block: RolloutBlock) -> Components:
    """`format`: 1 for strict adherence to the template, 0 for any deviation."""
    good = [float(not problem) for problem in block.problems]
    return {"format": torch.tensor(good, device=block.valid.device).view(block.valid.shape)}


@dataclass(frozen=True, slots=True)
class SimilarityReward:
    """Equation 7 for both sides of a block, each against the other: components `embedding`, `ranking` and `gap`.

    embed: where the vectors come from; prefix: before the components' names, to have more than one in a run.
    """

    settings: RewardSettings = field(default_factory=RewardSettings)
    embed: Embedder = policy_vectors
    prefix: str = ""

    def __call__(self, block: RolloutBlock) -> Components:
        queries, targets = self.embed(block)
        query_valid, target_valid = block.valid
        mask = block.not_negative
        asked = embedding_reward(queries, targets, query_valid, target_valid, mask, self.settings)
        mask = None if mask is None else mask.T
        found = embedding_reward(targets, queries, target_valid, query_valid, mask, self.settings)
        return {
            f"{self.prefix}embedding": torch.stack([asked.value, found.value]),
            f"{self.prefix}ranking": torch.stack([asked.ranking, found.ranking]),
            f"{self.prefix}gap": torch.stack([asked.gap, found.gap]),
        }


def score(block: RolloutBlock, rewards: Sequence[Reward]) -> Components:
    """All components of all rewards. Raises Fatal where two have one name, a wrong shape, or a value is not finite."""
    components: Components = {}
    for reward in rewards:
        for name, values in reward(block).items():
            if name in components:
                raise Fatal(f"Two rewards have a component {name!r}.", "Give one of them another prefix.")
            if values.shape != block.valid.shape:
                shapes = f"{list(values.shape)}, and not {list(block.valid.shape)}"
                raise Fatal(f"The reward component {name!r} has the shape {shapes}.", "Give one value a rollout.")
            if not bool(values.isfinite().all()):
                raise Fatal(
                    f"The reward component {name!r} holds a value that is not finite.",
                    "Look at the embeddings of the last checkpoint; a lower learning rate keeps them finite.",
                )
            components[name] = values
    return components


def total(components: Components, weights: Mapping[str, float]) -> Tensor:
    """[2, N, G], the weighted sum of the named components. Raises RecipeError for a name that no reward gives."""
    unknown = sorted(set(weights) - set(components))
    if unknown or not weights:
        wanted = f"no reward gives {', '.join(unknown)}" if unknown else "no component has a weight"
        raise RecipeError(f"The total reward cannot be made: {wanted}.", f"There are {', '.join(components)}.")
    return torch.stack([weight * components[name] for name, weight in weights.items()]).sum(0)
