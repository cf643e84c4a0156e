"""The two-pass step of a tiny student in two processes is that of one, however the pairs are dealt."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.launching import launch, require_deepspeed
from tests.sft.parallel.distributed.step_worker import SCENARIOS, trained
from tests.student import small_student

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["ddp", "fsdp2", "zero2", "zero3"])
def findings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if request.param.startswith("zero"):
        require_deepspeed()
    out = tmp_path_factory.mktemp(request.param) / "findings.pt"
    launch(request.param, "tests.sft.parallel.distributed.step_worker", str(out))
    return torch.load(out, weights_only=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return trained(tmp_path_factory.mktemp("alone"), first=0)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_step_of_a_student_is_the_same_in_two_processes(findings, alone, scenario):
    found = findings[scenario]["state"]
    assert found.keys() == alone["state"].keys()
    assert max((found[name] - alone["state"][name]).abs().max().item() for name in found) <= 1e-5
    for one, other in zip(findings[scenario]["reports"], alone["reports"], strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_those_steps_move_the_student(alone):
    untrained = small_student().model.state_dict()
    moved = {name: (alone["state"][f"model.{name}"] - untrained[name]).abs().max().item() for name in untrained}
    assert max(moved.values()) > 1e-2
