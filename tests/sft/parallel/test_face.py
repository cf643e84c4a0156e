"""What a launcher's environment asks for, and the launch lines in deploy/. Real ranks: tests/sft/distributed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from umer1_core.errors import Fatal
from umer1_core.sft.parallel.face import Parallel, ParallelSettings, make_parallel
from umer1_core.training.launch import launch_command, launched_kind
from umer1_core.training.ranks import join_ranks

DEPLOY = Path(__file__).parents[3] / "deploy"
CONFIGS = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero1": "DEEPSPEED", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}


def one_weight() -> tuple[nn.Linear, torch.optim.Optimizer]:
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    return module, torch.optim.SGD(module.parameters(), lr=1.0)


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({}, "one"),
        ({"LOCAL_RANK": "1"}, "ddp"),
        ({"LOCAL_RANK": "1", "ACCELERATE_USE_FSDP": "true"}, "fsdp2"),
        ({"LOCAL_RANK": "1", "ACCELERATE_USE_DEEPSPEED": "true"}, "deepspeed"),
    ],
)
def test_the_launchers_environment_says_what_is_used(monkeypatch, variables, kind):
    for name in ("LOCAL_RANK", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched_kind() == kind


def test_without_a_launcher_one_process_is_a_group_of_one():
    ranks = join_ranks()
    rows = torch.arange(6.0).view(3, 2)
    assert (ranks.rank, ranks.world, ranks.main) == (0, 1, True)
    assert torch.equal(ranks.gather(rows), rows) and torch.equal(ranks.total(rows), rows) and ranks.most(4) == 4


def test_gradients_add_up_are_clipped_to_their_norm_and_dropped():
    module, optimizer = one_weight()
    parallel = make_parallel(module, lambda _: [optimizer], nn.Linear, ParallelSettings())
    with parallel.accumulate():
        for last in (False, True):
            parallel.backward(2 * parallel.forward(torch.ones(1, 1), grad=True).sum(), last=last)
    assert parallel.step(max_norm=0.5) == pytest.approx(4.0)
    assert module.weight.item() == pytest.approx(0.5)
    assert module.weight.grad is None


def test_a_checkpoint_is_whole_though_a_part_was_never_used(tmp_path):
    """As the merger of a vision tower, on texts alone."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 1), nn.Linear(2, 1)

        def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (self.used(rows),)

    def started() -> Parallel:
        torch.manual_seed(0)
        return make_parallel(Two(), lambda made: [torch.optim.AdamW(made.parameters())], nn.Linear, ParallelSettings())

    def stepped(parallel: Parallel) -> Parallel:
        parallel.backward(parallel.forward(torch.ones(3, 2), grad=True)[0].sum(), last=True)
        parallel.step(1.0)
        return parallel

    through, again = stepped(started()), started()
    through.save(tmp_path)
    again.load(tmp_path)
    for parallel in (through, again):
        parallel.set_rate(0.5)
        stepped(parallel)
    one, other = through.full_state(), again.full_state()
    assert one is not None and other is not None
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_rate_is_a_share_of_the_one_the_optimizer_was_made_with():
    module, optimizer = one_weight()
    parallel = make_parallel(module, lambda _: [optimizer], nn.Linear, ParallelSettings())
    for factor in (0.5, 0.25):
        parallel.set_rate(factor)
        assert optimizer.param_groups[0]["lr"] == factor


@pytest.mark.parametrize("name", CONFIGS)
def test_each_config_is_for_the_parallelism_of_its_name(name):
    config = yaml.safe_load((DEPLOY / "accelerate" / f"{name}.yaml").read_text())
    assert config["distributed_type"] == CONFIGS[name]
    if name.startswith("zero"):
        assert config["deepspeed_config"]["zero_stage"] == int(name[-1])


def test_a_launch_command_runs_the_program_in_the_processes_of_a_config():
    command = launch_command(DEPLOY / "accelerate" / "ddp.yaml", ["train", "runs/x"])
    assert command[0] == sys.executable
    assert command[-4:] == ["-m", "umer1_core.cli", "train", "runs/x"]


def test_a_config_that_is_not_there_is_named_with_what_to_do():
    with pytest.raises(Fatal, match="deploy/accelerate"):
        launch_command("no/such.yaml", [])


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, "umer1 train DATA --dume"),
        ({"GPUS": "8"}, "--num_processes 8 --num_machines 1"),
        ({"GPUS": "8", "CONFIG": "zero2"}, "accelerate/zero2.yaml"),
        (
            {"GPUS": "8", "NODES": "4", "NODE": "3", "MASTER": "10.0.0.1"},
            "--num_processes 32 --num_machines 4 --main_process_port 29500 --machine_rank 3 --main_process_ip 10.0.0.1",
        ),
    ],
)
def test_the_launch_script_makes_a_line_for_one_gpu_for_eight_and_for_several_machines(tmp_path, variables, line):
    for program in ("umer1", "accelerate"):
        (tmp_path / program).write_text(f'#!/bin/sh\necho {program} "$@"\n')
        (tmp_path / program).chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"} | variables
    done = subprocess.run(
        [DEPLOY / "train.sh", "DATA", "--dume"], env=environment, capture_output=True, text=True, check=True
    )
    assert line in done.stdout and done.stdout.endswith("train DATA --dume\n")


def test_the_launch_script_says_what_several_machines_lack():
    environment = {"PATH": os.environ["PATH"], "NODES": "2", "GPUS": "8"}
    done = subprocess.run([DEPLOY / "train.sh", "DATA"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "set NODE" in done.stderr
