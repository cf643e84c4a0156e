"""A GRPO step in two processes is that of one, and a training that was killed in two ends as one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.grpo.by_hand import furthest
from tests.grpo.distributed.step_worker import SCENARIOS, prepare, trained
from tests.grpo.short import SHORT, assert_equal
from tests.grpo.table import fitted_student, pairs_of, rl_store
from tests.launching import launch, require_deepspeed
from tests.training.steplog import losses

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("steps")
    prepare(place)
    return place


MATRIX = [pytest.param(kind, marks=pytest.mark.matrix) for kind in ("fsdp2", "zero2")]


@pytest.fixture(scope="module", params=["ddp", *MATRIX])
def findings(request: pytest.FixtureRequest, root: Path) -> dict[str, Any]:
    if request.param.startswith("zero"):
        require_deepspeed()
    out = root / f"{request.param}.pt"
    launch(request.param, "tests.grpo.distributed.step_worker", str(root), str(out))
    return torch.load(out, weights_only=True)


@pytest.fixture(scope="module")
def alone(root: Path) -> dict[str, Any]:
    return {name: trained(root, name) for name in SCENARIOS}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_step_is_the_same_in_two_processes(findings, alone, name):
    found, expected = findings[name], alone[name]
    assert found["rejected"] == expected["rejected"] and len(found["rejected"]) == len(SCENARIOS[name][1])
    for values in ("rewards", "advantages", "vectors"):
        assert torch.allclose(found[values], expected[values], atol=1e-5), values
    for one, other in zip(found["records"], expected["records"], strict=True):
        assert one.keys() == other.keys()
        for number in one:  # means over passes, of which one process makes more, are near each other alone
            rel = 0.2 if number in ("kl", "entropy") else 1e-4
            assert one[number] == pytest.approx(other[number], rel=rel, abs=1e-6), number
    for one, other in zip(found["gradients"], expected["gradients"], strict=True):
        # Without media one process leaves out the tower; ZeRO keeps its gradients to itself.
        nothing = {k: torch.zeros_like(v) for k, v in one.items()}
        assert not one or furthest(one, nothing | other) <= 1e-6
    assert found["state"].keys() == expected["state"].keys()
    assert max((found["state"][k] - expected["state"][k]).abs().max() for k in found["state"]) <= 1e-6


def test_those_steps_are_unlike_each_other_and_move_the_student(alone):
    """Or nothing was shown."""
    still = alone["nothing"]["state"]
    for name, found in alone.items():
        furthest_moved = max(float((found["state"][k] - still[k]).abs().max()) for k in still)
        assert (furthest_moved > 1e-4) == (name != "nothing")
    assert alone["nothing"]["records"][0]["grad_norm"] == 0


@pytest.mark.matrix
@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "zero2"])
def test_a_training_killed_in_two_processes_ends_as_one_that_was_not(tmp_path, kind):
    if kind.startswith("zero"):
        require_deepspeed()
    store = rl_store(tmp_path, pairs_of(tmp_path))
    through, again = tmp_path / "through", tmp_path / "again"

    def start(folder: Path, *more: str, killed: bool = False) -> None:
        arguments = (store.root, fitted_student(), str(folder), *more)
        launch(kind, "tests.grpo.distributed.train_worker", *arguments, killed=killed)

    start(through)
    start(again, "3", killed=True)
    assert losses(again)[-1]["step"] == 3 and not (again / "model").exists()
    start(again)
    assert_equal(again, through)
    assert len(losses(again)) == SHORT.steps
