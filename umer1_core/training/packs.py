"""Which sequences share a forward pass: packs under a token budget.

Guarantees: every sequence is in exactly one pack; no pack of several sequences is over the budget, which bounds the
memory of a step whatever its number of pairs. Order inside a step does not matter to the loss, so sequences are placed
by length, longest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Layout = Literal["packed", "padded"]


def plan_packs(lengths: Sequence[int], budget: int, layout: Layout = "packed") -> list[list[int]]:
    """Packs of places in `lengths`. packed: one row without padding; padded: rows of like length, padded to a block."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return _first_fit(order, lengths, budget) if layout == "packed" else _blocks(order, lengths, budget)


def processed_tokens(lengths: Sequence[int], packs: Sequence[Sequence[int]], layout: Layout = "packed") -> int:
    """Tokens that go through the model, padding included."""
    if layout == "packed":
        return sum(lengths)
    return sum(len(pack) * max(lengths[i] for i in pack) for pack in packs if pack)


def _first_fit(order: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    packs: list[list[int]] = []
    room: list[int] = []
    for i in order:
        place = next((p for p, left in enumerate(room) if left >= lengths[i]), None)
        if place is None:
            packs.append([])
            room.append(budget)
            place = len(packs) - 1
        packs[place].append(i)
        room[place] -= lengths[i]
    return packs


def _blocks(order: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    packs: list[list[int]] = []
    for i in order:
        if packs and (len(packs[-1]) + 1) * lengths[packs[-1][0]] <= budget:
            packs[-1].append(i)
        else:
            packs.append([i])
    return packs
