"""The processes of one training, and what they tell each other.

Guarantee: one process is a group of one, so nothing above asks whether a training is distributed. Every rank calls a
collective, in the same order.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

# A rank may write a checkpoint, or judge a slice, while the others wait in a collective.
_PATIENCE = timedelta(hours=1)
_LETTING_GO_S = 0.3

T = TypeVar("T")


class Ranks:
    """Collectives without autograd. rank: this process; world: how many there are; device: where this one computes."""

    def __init__(self, rank: int, world: int, device: torch.device) -> None:
        self.rank, self.world, self.device = rank, world, device

    @property
    def main(self) -> bool:
        """True on the one rank that writes logs."""
        return self.rank == 0

    def gather(self, local: Tensor) -> Tensor:
        """Rows of all ranks in rank order: [n_r, ...] on each → [sum of n_r, ...]. An n_r may be 0.

        Raises ValueError, on every rank, where rows are not of one size: also a rank without any has their type.
        """
        if self.world == 1:
            return local.detach()
        own = torch.zeros(self.world, 2, dtype=torch.long, device=self.device)
        own[self.rank] = torch.tensor([len(local), local.element_size() * math.prod(local.shape[1:])])
        counts, sizes = self.total(own).T.tolist()
        if len(set(sizes)) > 1:
            raise ValueError(f"The ranks gather rows of {sizes} bytes.")
        longest = max(counts)
        padded = local.new_zeros((longest, *local.shape[1:]))
        padded[: len(local)] = local.detach()
        gathered = local.new_empty((self.world * longest, *local.shape[1:]))
        if longest:
            dist.all_gather_single(gathered, padded)
        parts = gathered.split(longest) if longest else [gathered] * self.world
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def gather_objects(self, local: Sequence[T]) -> list[T]:
        """Small Python objects of all ranks in rank order; nothing is sent while no rank has one."""
        if self.world == 1 or not self.most(len(local)):
            return list(local)
        every: list[Any] = [None] * self.world
        dist.all_gather_object(every, list(local))
        return [value for part in every for value in part]

    def total(self, values: Tensor) -> Tensor:
        """Values summed over ranks, of the same shape."""
        summed = values.detach().clone()
        if self.world > 1:
            dist.all_reduce(summed)
        return summed

    def most(self, value: int) -> int:
        """The largest of all ranks."""
        if self.world == 1:
            return value
        largest = torch.tensor(value, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            dist.barrier()


def join_ranks() -> Ranks:
    """Join the processes that torchrun or `accelerate launch` started; without a launcher, one process.

    Called before a model is loaded: afterwards `cuda` means this rank's own GPU. Calling it again is free.
    """
    on_gpu = torch.cuda.is_available()
    if "LOCAL_RANK" not in os.environ:
        return Ranks(0, 1, torch.device("cuda" if on_gpu else "cpu"))
    state = PartialState(cpu=not on_gpu, timeout=_PATIENCE)
    return Ranks(state.process_index, state.num_processes, state.device)


def leave_ranks() -> None:
    """Close the process group at the end of a process; without one, nothing. Every rank calls it.

    Gloo's is left to the end of the interpreter, after a moment: a thread of it needs the interpreter's lock to let go
    of the last operation, and its destructor waits for that thread with the lock held.
    """
    if not dist.is_initialized():
        return
    dist.barrier()
    if torch.cuda.is_available():
        dist.destroy_process_group()
    else:
        time.sleep(_LETTING_GO_S)
