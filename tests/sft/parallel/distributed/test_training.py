"""A real training in two processes: killed and started again, it ends as one that ran through."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.launching import launch, require_deepspeed
from tests.student import cold_start_store, small_pairs
from tests.training.steplog import losses
from umer1_core.backbone.model import load_backbone

pytestmark = pytest.mark.slow
WORKER = "tests.sft.parallel.distributed.train_worker"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("data")
    return cold_start_store(place, small_pairs(place)).root


MATRIX = [pytest.param(kind, marks=pytest.mark.matrix) for kind in ("fsdp2", "zero3")]


@pytest.fixture(scope="module", params=["ddp", *MATRIX])
def folders(request: pytest.FixtureRequest, root: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of a training that ran through, and of one that was killed after step 5 and went on from step 4."""
    if request.param.startswith("zero"):
        require_deepspeed()
    place = tmp_path_factory.mktemp(request.param)
    through, again = place / "through", place / "again"
    launch(request.param, WORKER, root, str(through))
    launch(request.param, WORKER, root, str(again), "5", killed=True)
    assert losses(again)[-1]["step"] == 5 and not (again / "model").exists()
    launch(request.param, WORKER, root, str(again))
    return through, again


def test_a_training_killed_and_resumed_has_the_curve_of_one_that_ran_through(folders):
    through, again = folders
    assert [line["step"] for line in losses(again)] == [1, 2, 3, 4, 5, 6]
    assert losses(again) == losses(through)
    assert losses(through)[-1]["loss"] < losses(through)[0]["loss"]


def test_it_is_evaluated_and_exported_whole_like_one_of_one_process(folders):
    through, again = folders
    assert (again / "evaluations.jsonl").read_text() == (through / "evaluations.jsonl").read_text()
    one, other = (load_backbone(str(folder / "model")).model.state_dict() for folder in folders)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.isfinite(tensor).all() for tensor in one.values())
