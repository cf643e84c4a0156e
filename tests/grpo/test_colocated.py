"""Rollouts by an engine of the trainer's own: the real vLLM, in a process that is killed at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.grpo.vllm_policy import logprobs, policy, prompts_of, sampling
from tests.student import small_student
from umer1_core.errors import BadInput, Fatal
from umer1_core.grpo.rollouts.colocated import Colocated, _only
from umer1_core.grpo.rollouts.face import Completion

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def test_an_engine_sees_the_gpu_of_its_rank_alone(monkeypatch):
    seen = []
    for given in ("4,5,6", None):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if given is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        with _only(torch.device("cuda", 1)):
            seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == given
    assert seen == ["5", "1"]


def test_without_vllm_it_is_refused_with_the_command_to_install_it(monkeypatch, tmp_path):
    student = small_student()
    monkeypatch.setitem(sys.modules, "vllm", None)
    rollouts = Colocated(sampling(student), student.ids, tmp_path / "weights", CPU, 512)
    with pytest.raises(Fatal, match="pip install"):
        rollouts.load(0, lambda folder: (folder / "model.safetensors").write_text("") and None)


def test_a_side_too_long_for_the_engine_is_named(tmp_path):
    student = small_student()
    prompt = prompts_of(student, tmp_path)[0]
    limit = len(prompt.row) + 11
    rollouts = Colocated(sampling(student, tokens=12), student.ids, tmp_path / "weights", CPU, limit)
    with pytest.raises(BadInput, match=f"side {prompt.key}: .* the engine holds {limit}"):
        rollouts.sample([prompt], 2, seed=0)


@pytest.mark.slow
def test_it_samples_the_weights_last_loaded_and_its_engine_ends_with_the_trainer(tmp_path):
    command = [sys.executable, "-m", "tests.grpo.colocated_worker", str(tmp_path)]
    with open(tmp_path / "log", "wb") as log:
        trainer = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    family: list[psutil.Process] = []
    try:
        for _ in range(1_200):
            if (tmp_path / "found.json").exists() or trainer.poll() is not None:
                break
            time.sleep(0.25)
        assert (tmp_path / "found.json").exists(), (tmp_path / "log").read_text()[-3_000:]
        family = psutil.Process(trainer.pid).children(recursive=True)
        _check(json.loads((tmp_path / "found.json").read_text()), tmp_path)
        assert family
    finally:
        trainer.kill()
        trainer.wait()
    _, alive = psutil.wait_procs(family, timeout=60)  # the engine takes 15 s to see its worker off
    assert [process.name() for process in alive] == []


def _check(found: list[list[list[tuple[list[int], list[float]]]]], folder: Path) -> None:
    assert [[ids for ids, _ in group] for group in found[0]] != [[ids for ids, _ in group] for group in found[1]]
    for name, noise, groups in zip(("a", "b"), (None, 1), found, strict=True):
        backbone = policy(folder / name, noise)
        for prompt, group in zip(prompts_of(backbone, folder), groups, strict=True):
            for ids, told in group:
                ours = logprobs(backbone, prompt.row, Completion(tuple(ids)), sampling(backbone))
                torch.testing.assert_close(torch.tensor(told), ours, atol=2e-3, rtol=0)
