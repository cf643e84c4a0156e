"""DeepSpeed ZeRO-1/2/3: optimizer states, gradients and weights split over ranks.

Guarantee: one reduction a step, by `coalesce_grad_reduction`. Weights are float32 and matrix products run in the
compute type by autocast, as with DDP: DeepSpeed's own bf16 mode would round the rotary frequencies too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch
from accelerate.utils import DeepSpeedPlugin
from deepspeed import zero
from torch import Tensor, nn

from umer1_core.errors import Fatal
from umer1_core.sft.parallel.with_torch import fill_gradient, set_rate
from umer1_core.training.ranks import Ranks

_TAG, _WRITER = "zero", "writer.txt"


class Zero(Ranks):
    """ZeRO of the stage that the accelerate config names; its `offload_…` and `deepspeed_config_file` count too."""

    keeps_graphs = False

    def __init__(self, ranks: Ranks, module: nn.Module, optimizer: torch.optim.Optimizer, compute: torch.dtype) -> None:
        super().__init__(ranks.rank, ranks.world, ranks.device)
        config = _config(self.world, compute)
        self._stage = config["zero_optimization"]["stage"]
        if self._stage == 0:
            raise Fatal("ZeRO stage 0 is plain data parallelism.", "Launch with deploy/accelerate/ddp.yaml.")
        self.module, self._optimizer = module, optimizer
        set_rate([optimizer], 1.0)
        self.equal_packs = self._stage == 3
        self._engine: Any = deepspeed.initialize(
            model=module, optimizer=optimizer, config=config, dist_init_required=False
        )[0]

    def forward(self, *args: Any, grad: bool, **kwargs: Any) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(grad):
            return self._engine(*args, **kwargs)

    @contextmanager
    def whole(self, part: nn.Module) -> Iterator[None]:
        if self._stage < 3:
            yield
            return
        offload = self._engine.optimizer.parameter_offload
        with zero.GatheredParameters(list(part.parameters())):
            # Its hooks would release each layer after it ran, and gather it again with ranks that may not run it.
            offload.destroy()
            try:
                yield
            finally:
                offload.setup_zero_stage3_hooks()

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        with self._engine.coalesce_grad_reduction():
            yield
            # The reduction pairs the parameters of all ranks by their order. Those of ZeRO-3 are not here to be filled.
            for parameter in self.module.parameters() if self._stage < 3 else ():
                if parameter.requires_grad:
                    fill_gradient(parameter)

    def backward(self, loss: Tensor, last: bool) -> None:
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, max_norm: float) -> float:
        self._engine.optimizer.clip_grad = max_norm
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def skip(self) -> None:
        self._engine.optimizer.zero_grad()

    def set_rate(self, factor: float) -> None:
        set_rate([self._optimizer], factor)

    def save(self, folder: Path) -> None:
        if self.main:
            (folder / _WRITER).write_text(self._name())
        self._engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        record = folder / _WRITER
        writer = record.read_text() if record.exists() else "something else"
        if writer != self._name():
            raise Fatal(
                f"{folder} was written by {writer}; this is {self._name()}.",
                "Go on with the accelerate config and the number of processes it was begun with.",
            )
        self._engine.load_checkpoint(str(folder), tag=_TAG, load_module_strict=False)

    def full_state(self) -> dict[str, Any] | None:
        whole: dict[str, Any] = {}
        for name, tensor in self.module.state_dict(keep_vars=True).items():
            # One at a time: the whole module may not fit into one device's memory.
            with zero.GatheredParameters([tensor]) if self._stage == 3 else nullcontext():
                if self.main:
                    whole[name] = tensor.detach().cpu().clone()
        return whole if self.main else None

    def _name(self) -> str:
        return f"ZeRO-{self._stage} in {self.world} processes"


def _config(world: int, compute: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's configuration from what `accelerate launch` handed down, its open values filled in."""
    plugin = DeepSpeedPlugin()
    plugin.deepspeed_config_process(
        must_match=False,
        train_batch_size=world,
        train_micro_batch_size_per_gpu=1,
        gradient_accumulation_steps=1,
        gradient_clipping=1.0,
    )
    config = dict(plugin.deepspeed_config)
    # AdamW is torch's own, wherever its states are.
    config["zero_force_ds_cpu_optimizer"] = False
    if compute != torch.float32:
        config["torch_autocast"] = {"enabled": True, "dtype": str(compute).removeprefix("torch.")}
    return config
