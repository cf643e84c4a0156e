"""One process, DDP and FSDP2, with torch alone.

Guarantee: checkpoints of the three are interchangeable, and of any number of ranks: torch.distributed.checkpoint
stores them by parameter name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from umer1_core.errors import Fatal
from umer1_core.training.ranks import Ranks

OptimizersFactory = Callable[[nn.Module], list[torch.optim.Optimizer]]

# What is frozen is in the checkpoint that training began with.
_TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class OneProcess(Ranks):
    """A module trained by one process; what the others build on."""

    equal_packs = False
    keeps_graphs = True

    def __init__(self, ranks: Ranks, module: nn.Module, optimizers_factory: OptimizersFactory) -> None:
        super().__init__(ranks.rank, ranks.world, ranks.device)
        self.module, self.optimizers = module, optimizers_factory(module)
        set_rate(self.optimizers, 1.0)

    def forward(self, *args: Any, grad: bool, **kwargs: Any) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(grad):
            return self.module(*args, **kwargs)

    def whole(self, part: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def accumulate(self) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()

    def step(self, max_norm: float) -> float:
        trained = [p for p in self.module.parameters() if p.requires_grad]
        norm = _whole_tensor(get_total_norm([fill_gradient(p) for p in trained]))
        if math.isfinite(norm):
            clip_grads_with_norm_(trained, max_norm, norm)
            for optimizer in self.optimizers:
                optimizer.step()
        self.module.zero_grad(set_to_none=True)
        return float(norm)

    def skip(self) -> None:
        self.module.zero_grad(set_to_none=True)

    def set_rate(self, factor: float) -> None:
        set_rate(self.optimizers, factor)

    def save(self, folder: Path) -> None:
        dcp.save(self._state(), checkpoint_id=folder, no_dist=self.world == 1)

    def load(self, folder: Path) -> None:
        if not (folder / ".metadata").exists():
            raise Fatal(
                f"{folder} is not whole, or DeepSpeed's.", "Go on with the accelerate config it was begun with."
            )
        state = self._state()
        dcp.load(state, checkpoint_id=folder, no_dist=self.world == 1)
        set_state_dict(
            self.module,
            self.optimizers,
            model_state_dict=state["module"],
            optim_state_dict=state["optimizers"],
            options=_TRAINED,
        )

    def full_state(self) -> dict[str, Any] | None:
        whole = get_model_state_dict(self.module, options=_WHOLE)
        return whole if self.main else None

    def _state(self) -> dict[str, Any]:
        module, optimizers = get_state_dict(self.module, self.optimizers, options=_TRAINED)
        return {"module": module, "optimizers": optimizers}


class Replicated(OneProcess):
    """DistributedDataParallel: whole weights on every rank, gradients reduced while the last backward pass runs.

    Only its reducer is used. Its `forward` waits for the other ranks to rearrange buckets, and an idle rank has none.
    """

    def __init__(self, ranks: Ranks, module: nn.Module, optimizers_factory: OptimizersFactory) -> None:
        super().__init__(ranks, module, optimizers_factory)
        self._wrapped = DistributedDataParallel(module, forward_sync_buffers=False, gradient_as_bucket_view=True)
        self._reduced = False

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        self._reduced = False
        with self._wrapped.no_sync():
            yield
            if not self._reduced:
                self.backward(torch.zeros((), device=self.device), last=True)

    def backward(self, loss: Tensor, last: bool) -> None:
        if not last:
            loss.backward()
            return
        # The reducer waits for every parameter; those that this pack left out add zero, as all do on an idle rank.
        touched = sum(p.sum() for p in self.module.parameters() if p.requires_grad)
        with Accelerator.trigger_sync_in_backward(self._wrapped):
            (loss + 0 * touched).backward()
        self._reduced = True


class Sharded(OneProcess):
    """FSDP2: a shard of every weight on each rank; a decoder layer is gathered when it runs, the rest around it.

    `fsdp_reshard_after_forward: false` in the accelerate config keeps the layers whole from a step's first pass to its
    last backward one: fewer gathers, more memory.
    """

    equal_packs = True
    keeps_graphs = False

    def __init__(
        self,
        ranks: Ranks,
        module: nn.Module,
        optimizers_factory: OptimizersFactory,
        layer_class: type[nn.Module],
        compute: torch.dtype,
    ) -> None:
        plugin = FullyShardedDataParallelPlugin()
        if plugin.fsdp_version != 2:
            raise Fatal("The accelerate config asks for FSDP1.", "Set `fsdp_version: 2`: deploy/accelerate/fsdp2.yaml.")
        self._keep = not plugin.reshard_after_forward
        mesh = init_device_mesh(ranks.device.type, (ranks.world,))
        self._root = _shard(module, layer_class, compute, mesh, self._keep, plugin.cpu_offload)
        super().__init__(ranks, module, optimizers_factory)

    @contextmanager
    def whole(self, part: nn.Module) -> Iterator[None]:
        groups = [self._root, *(m for m in part.modules() if isinstance(m, FSDPModule) and m is not self._root)]
        for group in groups:
            group.unshard()
            # Else a layer that one rank runs alone would go, and that rank would wait for the others to gather it.
            group.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for group in groups:
                group.reshard()
                group.set_reshard_after_forward(group is not self._root and not self._keep, recurse=False)

    def backward(self, loss: Tensor, last: bool) -> None:
        self._root.set_requires_gradient_sync(last)
        self._root.set_is_last_backward(last)
        self._root.set_reshard_after_backward(last or not self._keep)
        loss.backward()

    def skip(self) -> None:
        super().skip()
        self._root.reset_iter_state()


def _shard(
    module: nn.Module,
    layer_class: type[nn.Module],
    compute: torch.dtype,
    mesh: DeviceMesh,
    keep: bool,
    offload: OffloadPolicy,
) -> FSDPModule:
    """Split a module's weights, those of rank 0, over the mesh. keep: layers stay whole after they ran."""
    for tensor in (*module.parameters(), *module.buffers()):
        dist.broadcast(tensor.detach(), src=0)
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    for layer in [child for child in module.modules() if isinstance(child, layer_class)]:
        fully_shard(layer, mesh=mesh, reshard_after_forward=not keep, mp_policy=policy, offload_policy=offload)
    # The root's inputs stay as they are: weights of the token loss are float32.
    policy = replace(policy, cast_forward_inputs=False)
    root = fully_shard(module, mesh=mesh, reshard_after_forward=False, mp_policy=policy, offload_policy=offload)
    root.set_reduce_scatter_unused_params(True)
    return root


def fill_gradient(parameter: nn.Parameter) -> Tensor:
    """A parameter's gradient; zeros where no pack of the step used it, so that its momentum acts as on many ranks."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def set_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Rates as a share of those the optimizers were made with, which torch's schedulers call `initial_lr`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group.setdefault("initial_lr", group["lr"])


def _whole_tensor(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value
