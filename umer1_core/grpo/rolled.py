"""What a process has of a block's rollouts, as TRL and a forward pass take them.

TRL's rows are rollouts, pair by pair: q1×G, t1×G, q2×G and so on. Guarantees: a group is never split, a rejected pair
keeps its rows, and no rollout holds a placeholder of a medium: it is cut before one, with the problem `placeholder`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from umer1_core.backbone.model import Backbone, TokenIds
from umer1_core.backbone.shared_prefix import Group
from umer1_core.grpo.format import format_problem
from umer1_core.grpo.pairs import QUERY, TARGET
from umer1_core.grpo.rollouts.face import Completion
from umer1_core.grpo.sides import PairPrompts
from umer1_core.training.data.pair_table import Rejection

PLACEHOLDER = "placeholder"
BOTH = (QUERY, TARGET)

_REJECTED = 2  # tokens of a rejected pair's rows
_LARGEST_RATIO = 2.0


@dataclass(frozen=True, slots=True)
class Rolled:
    """A process's rollouts of a block. pairs: in order; completions, texts, problems: [pairs][2 sides][G], empty for a
    rejected pair; vectors: [pairs, 2, G, width]."""

    pairs: tuple[PairPrompts | Rejection, ...]
    completions: tuple[tuple[tuple[Completion, ...], ...], ...]
    texts: tuple[tuple[tuple[str, ...], ...], ...]
    problems: tuple[tuple[tuple[str, ...], ...], ...]
    vectors: Tensor
    group: int

    @property
    def used(self) -> list[bool]:
        """[pairs], False where a pair was rejected."""
        return [isinstance(pair, PairPrompts) for pair in self.pairs]

    @property
    def rows(self) -> int:
        """TRL's rows of this process, those of rejected pairs included."""
        return 2 * self.group * len(self.pairs)

    @property
    def largest(self) -> int:
        """Tokens of the largest group with its prompt; 1 where all pairs were rejected."""
        used = [pair for pair, there in enumerate(self.used) if there]
        return max((self.of_side(pair, side).tokens() for pair in used for side in BOTH), default=1)

    def of_side(self, pair: int, side: int) -> Group:
        """The rollouts of one side for a forward pass."""
        prompts = self.pairs[pair]
        assert isinstance(prompts, PairPrompts)
        return Group(prompts.prompts[side].row, tuple(c.ids for c in self.completions[pair][side]))

    def groups(self, rows: Sequence[int], sides: Collection[int]) -> tuple[list[int], list[Group]]:
        """Of rows in whole groups, those of `sides` and of pairs that are used: their places among `rows`, and their
        groups."""
        found = [divmod(row // self.group, 2) for row in rows[:: self.group]]
        chosen = [(pair, side) for pair, side in found if self.used[pair] and side in sides]
        places = [(2 * pair + side) * self.group + place for pair, side in chosen for place in range(self.group)]
        offset = rows[0] if rows else 0
        return [place - offset for place in places], [self.of_side(pair, side) for pair, side in chosen]

    def trained(self, sides: Collection[int]) -> Tensor:
        """bool [rows], of `sides` and of pairs that are used."""
        used = torch.tensor(self.used).view(-1, 1, 1)
        side = torch.tensor([s in sides for s in BOTH]).view(1, 2, 1)
        return (used & side).expand(-1, -1, self.group).flatten()

    def token_ids(self, ids: TokenIds) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts and completions, one a row; a rejected pair's are two tokens each: of rows of one token TRL means
        whole sequences."""
        prompts: list[list[int]] = []
        completions: list[list[int]] = []
        for pair, sides in zip(self.pairs, self.completions, strict=True):
            for side in BOTH:
                if isinstance(pair, PairPrompts):
                    prompts += [list(pair.prompts[side].row.prompt)] * self.group
                    completions += [list(completion.ids) for completion in sides[side]]
                else:
                    prompts += [[ids.pad]] * self.group
                    completions += [[ids.end_of_turn] * _REJECTED] * self.group
        return prompts, completions

    def token_ratio(self, rows: Sequence[int], log_probs: Tensor) -> tuple[Tensor, float | None]:
        """What an advantage is multiplied with for a token that another kernel sampled, policy over sampler and at
        most 2 (truncated importance sampling): [rows, longest], 1 where the sampler tells no log-probs; and the mean
        difference of log-probs, None where it tells none at all.

        log_probs: [`rows`, longest], the policy's.
        """
        everything = [c for sides in self.completions for side in sides for c in side]
        longest = max([len(c.ids) for c in everything] + [_REJECTED] * (not all(self.used)))
        ratio = torch.ones(self.rows, longest, device=self.vectors.device)
        gaps = []
        for row, completion, own in zip(rows, everything, log_probs, strict=True):
            if completion.logprobs is not None:
                told = torch.tensor(completion.logprobs, device=own.device)
                difference = own[: len(told)] - told
                gaps.append(difference.abs().mean())
                ratio[row, : len(told)] = difference.exp().clamp(max=_LARGEST_RATIO)
        return ratio, torch.stack(gaps).mean().item() if gaps else None


def roll(
    pairs: Sequence[PairPrompts | Rejection],
    made: Sequence[Sequence[Completion]],
    group: int,
    backbone: Backbone,
    device: torch.device,
) -> Rolled:
    """Rollouts with their texts and what is wrong with their form. made: a group for each side of the pairs that are
    used, in order; device: for the vectors."""
    groups = iter(made)
    found: list[list[list[tuple[Completion, str]]]] = [
        [[without_placeholders(c, backbone.ids) for c in next(groups)] for _ in BOTH]
        if isinstance(pair, PairPrompts)
        else [[], []]
        for pair in pairs
    ]
    completions = tuple(tuple(tuple(c for c, _ in side) for side in sides) for sides in found)
    decode = backbone.processor.tokenizer.decode
    texts = tuple(tuple(tuple(decode(list(c.ids)) for c in side) for side in sides) for sides in completions)
    problems = tuple(
        tuple(tuple(cut or format_problem(c.ids, backbone.ids, decode) for c, cut in side) for side in sides)
        for sides in found
    )
    width = backbone.model.config.text_config.hidden_size
    vectors = vectors_of(completions, width, group).to(device)
    return Rolled(tuple(pairs), completions, texts, problems, vectors, group)


def without_placeholders(completion: Completion, ids: TokenIds) -> tuple[Completion, str]:
    """A rollout up to its first placeholder of a medium, for which there are no features, and what was wrong with it:
    `placeholder`, or nothing.

    A sampler that was told to ban them may still let one through. What stands before it was sampled from the policy
    and is scored; where that is nothing, the end of the turn stands for it, without log-probs.
    """
    whole = completion.ids
    end = next((place for place, token in enumerate(whole) if token in (ids.image, ids.video)), len(whole))
    if end == len(whole):
        return completion, ""
    if end == 0:
        return Completion((ids.end_of_turn,)), PLACEHOLDER
    told = completion.logprobs
    return Completion(whole[:end], None if told is None else told[:end]), PLACEHOLDER


def vectors_of(completions: Sequence[Sequence[Sequence[Completion]]], width: int, group: int) -> Tensor:
    """[pairs, 2, G, width], zero where a completion has none."""
    found = torch.zeros(len(completions), 2, group, width)
    for pair, sides in enumerate(completions):
        for side, made in enumerate(sides):
            for place, completion in enumerate(made):
                if completion.vector is not None:
                    found[pair, side, place] = completion.vector
    return found
