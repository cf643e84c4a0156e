"""One face for one process, DDP, FSDP2 and DeepSpeed ZeRO-1/2/3: what the two-pass step needs and no more.

Guarantees: gradients are averaged over ranks, once a step, whatever the number of backward calls; a rank may have more
packs than another where `equal_packs` is false, and none at all; a step whose gradient is not finite changes nothing.
Which one is used is what the launcher says: `accelerate launch --config_file deploy/accelerate/….yaml`, or torchrun
for DDP. `accelerate` itself shards with FSDP2 and DeepSpeed on a GPU only; here both also run on the CPU, with gloo.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from umer1_core.errors import Fatal
from umer1_core.sft.parallel.with_torch import OneProcess, OptimizersFactory, Replicated, Sharded
from umer1_core.training.launch import Kind, launched_kind
from umer1_core.training.ranks import join_ranks


class Parallel(Protocol):
    """Where a module is trained. Unless said otherwise every rank calls every method, in the same order."""

    rank: int
    world: int
    device: torch.device
    module: nn.Module
    """The bare module. Its weights are whole inside `forward` and `whole` only."""
    equal_packs: bool
    """True where every rank must run the same number of forward and of backward passes: weights are gathered in them.
    There every pass uses every part of the module."""
    keeps_graphs: bool
    """True where several forward passes with grad may come before their backward passes."""

    @property
    def main(self) -> bool: ...

    def gather(self, local: Tensor) -> Tensor:
        """[n_r, ...] of each rank → [sum of n_r, ...], in rank order, without autograd. An n_r may be 0."""

    def total(self, values: Tensor) -> Tensor:
        """Summed over ranks."""

    def most(self, value: int) -> int:
        """The largest of all ranks."""

    def barrier(self) -> None: ...

    def forward(self, *args: Any, grad: bool, **kwargs: Any) -> tuple[Tensor, ...]:
        """The module's outputs; with grad=False nothing is kept for a backward pass. With grad: inside `accumulate`."""

    def whole(self, part: nn.Module) -> AbstractContextManager[None]:
        """A part of the module with whole weights, to be used outside `forward`, without gradient and unchanged.

        Every rank enters and leaves; inside, a rank may use the part alone, as in an evaluation."""

    def accumulate(self) -> AbstractContextManager[None]:
        """Around all backward calls of a step, which may be none on a rank unless `equal_packs`."""

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of `loss`; `last`: this rank's last one of the step.

        Gradients are averaged over ranks: for a sum over ranks the loss is `world` times this rank's part.
        """

    def step(self, max_norm: float) -> float:
        """Clip to the norm over all parameters, update, drop the gradients. Returns the norm before clipping.

        Where it is not finite, on every rank alike, nothing is updated.
        """

    def skip(self) -> None:
        """Instead of `accumulate` and `step`: give up a step after its first pass."""

    def set_rate(self, factor: float) -> None:
        """Learning rates as a share of those the optimizers were made with."""

    def save(self, folder: Path) -> None:
        """Trained weights and optimizer state into an empty folder that all ranks see.

        A caller that renames it, once every rank is done, has a checkpoint that is there whole or not at all.
        """

    def load(self, folder: Path) -> None:
        """Raises Fatal when another number of ranks or another kind of parallelism wrote what this one cannot read."""

    def full_state(self) -> dict[str, Any] | None:
        """The module's whole state dict, on the CPU of rank 0; None elsewhere."""


@dataclass(frozen=True, slots=True)
class ParallelSettings:
    """compute_dtype: of matrix products. Weights, gradients and optimizer states are float32."""

    compute_dtype: torch.dtype = torch.float32


def make_parallel(
    module: nn.Module, optimizers_factory: OptimizersFactory, layer_class: type[nn.Module], settings: ParallelSettings
) -> Parallel:
    """Put a module under what the launcher asks for. layer_class: the decoder layer, FSDP2's unit.

    optimizers_factory: makes the optimizers over the trained parameters as they are when it is called; sharded weights
    are trained with AdamW alone. All ranks start from the weights of rank 0.
    """
    kind, ranks = launched_kind(), join_ranks()
    if kind == "one":
        return OneProcess(ranks, module, optimizers_factory)
    if kind == "ddp":
        return Replicated(ranks, module, optimizers_factory)
    if kind == "fsdp2":
        return Sharded(
            ranks,
            module,
            lambda sharded: [_adamw(optimizers_factory(sharded), kind)],
            layer_class,
            settings.compute_dtype,
        )
    # DeepSpeed is an extra; importing it takes seconds and is left out where it is not used.
    try:
        from umer1_core.sft.parallel.with_deepspeed import Zero
    except ImportError as error:
        raise Fatal("DeepSpeed is not installed.", "Install umer1[deepspeed], or launch with fsdp2.yaml.") from error
    return Zero(ranks, module, _adamw(optimizers_factory(module), kind), settings.compute_dtype)


def _adamw(optimizers: list[torch.optim.Optimizer], kind: Kind) -> torch.optim.Optimizer:
    """Raises Fatal for an optimizer that needs whole matrices, where a rank has only parts of them."""
    if len(optimizers) != 1 or not isinstance(optimizers[0], torch.optim.AdamW):
        names = " and ".join(type(optimizer).__name__ for optimizer in optimizers)
        raise Fatal(f"{names} cannot train weights that {kind} splits over ranks.", "Set `optimizer: adamw`.")
    return optimizers[0]
