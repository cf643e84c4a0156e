"""Two processes are one: DDP, FSDP2 and ZeRO-1/2/3 over gloo, started with the configs that users start with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.launching import launch, require_deepspeed
from tests.sft.parallel.distributed.stand_in import MAX_NORM, sequences, two_pass
from tests.sft.parallel.distributed.worker import COUNT, SCENARIOS, cut, make, spoiled, trained
from umer1_core.errors import Fatal

pytestmark = [pytest.mark.slow, pytest.mark.matrix]
# By name: the config and what is changed in it.
KINDS: dict[str, tuple[str, list[str]]] = {
    "ddp": ("ddp", []),
    "fsdp2": ("fsdp2", []),
    "fsdp2, layers kept whole": ("fsdp2", ["--fsdp_reshard_after_forward", "false"]),
    "zero1": ("zero1", []),
    "zero2": ("zero2", []),
    "zero3": ("zero3", []),
    "zero2, states in the host's memory": ("zero2", ["--offload_optimizer_device", "cpu"]),
}
EVERYTHING = (12, (2, 0))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def findings(kind: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    config, options = KINDS[kind]
    if config.startswith("zero"):
        require_deepspeed()
    folder = tmp_path_factory.mktemp("ranks")
    launch(config, "tests.sft.parallel.distributed.worker", str(folder / "findings.pt"), options=options)
    return torch.load(folder / "findings.pt", weights_only=True) | {"checkpoint": str(folder / "checkpoint")}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """One process with all sequences of all ranks."""
    return trained(make(rarely=False), *EVERYTHING)


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of a weight."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_processes_train_as_one_does_whatever_their_packs(findings, alone, scenario):
    assert apart(findings[scenario]["state"], alone["state"]) <= 1e-5
    assert findings[scenario]["norms"] == pytest.approx(alone["norms"], rel=1e-4)


def test_the_steps_move_the_weights_and_clip_so_that_equality_says_something(alone):
    parallel = make(rarely=False)
    before = parallel.full_state()
    assert before is not None
    assert apart(before, alone["state"]) > 1e-2
    assert min(alone["norms"]) > 0.5
    halved = trained(make(rarely=False), 6, (2, 0))
    assert apart(halved["state"], alone["state"]) > 1e-3, "half of the sequences must not train as all of them do"


def test_a_part_that_one_rank_alone_uses_is_trained_as_in_one_process(kind, findings):
    if kind == "zero3":
        pytest.skip("ZeRO-3 reduces what has a gradient on every rank: all passes use all parts")
    reference = trained(make(rarely=True), *EVERYTHING)
    assert apart(findings["rare"]["state"], reference["state"]) <= 1e-5


def test_gathering_keeps_rank_order_with_unequal_and_with_no_rows(findings):
    gathered = findings["gathered"]
    assert torch.equal(gathered["rows"], torch.arange(6.0).view(2, 3) + 1)
    assert gathered["keys"].tolist() == [-5, -4] and gathered["keys"].dtype == torch.int64
    assert gathered["flags"].tolist() == [True, True]
    assert gathered["none"].shape == (0, 3)
    assert gathered["total"].tolist() == [2.0, 1.0]
    assert gathered["most"] == 7
    assert gathered["refused"] == 2, "rows of unequal types must be refused on both ranks, not mixed up"


def test_gradients_are_reduced_once_a_step_however_many_packs(findings):
    one, three = findings["reductions"]
    assert 0 < one == three
    if "reductions every time" in findings:
        assert findings["reductions every time"] == 3 * one, "the counter must see a reduction with each backward call"


def test_a_gradient_that_is_no_number_on_one_rank_changes_no_weight_on_any(findings):
    assert not torch.isfinite(torch.tensor(findings["spoiled"]["norm"]))
    assert apart(findings["spoiled"]["before"], findings["spoiled"]["after"]) == 0


def test_features_of_the_frozen_part_may_be_computed_outside_and_reused(findings):
    assert apart(findings["outside"]["reused"], findings["outside"]["anew"]) <= 1e-6


def test_one_rank_may_run_the_whole_module_alone_between_steps(findings, alone):
    assert max(findings["judged"]["differences"]) <= 1e-6
    assert apart(findings["judged"]["state"], alone["state"]) <= 1e-5


def test_resumed_with_its_optimizer_state_a_training_goes_on_as_if_never_stopped(findings):
    assert apart(findings["resumed"]["resumed"], findings["resumed"]["through"]) == 0


def test_one_process_goes_on_from_a_checkpoint_of_two_or_says_why_not(kind, findings):
    parallel = make(rarely=False)
    if kind.startswith("zero"):
        with pytest.raises(Fatal, match="DeepSpeed"):
            parallel.load(Path(findings["checkpoint"]))
        return
    parallel.load(Path(findings["checkpoint"]))
    for step in range(3, 5):
        two_pass(parallel, sequences(step, COUNT), cut(COUNT, 2))
        parallel.set_rate(1 / (step + 1))
        parallel.step(MAX_NORM)
    state = parallel.full_state()
    assert state is not None
    assert apart(state, findings["resumed"]["through"]) <= 1e-5


def test_sharded_weights_are_trained_in_bfloat16_from_float32_ones(kind, findings, alone):
    if kind == "ddp":
        pytest.skip("there the backbone's own autocast is all")
    rounded = findings["rounded"]
    assert all(tensor.dtype == torch.float32 for tensor in rounded["state"].values())
    assert rounded["norms"] == pytest.approx(alone["norms"], rel=0.05)
    assert rounded["norms"] != pytest.approx(alone["norms"], rel=1e-5)


def test_sharded_weights_are_trained_with_adamw_alone(kind, findings):
    if kind == "ddp":
        pytest.skip("every rank has whole matrices")
    assert findings["muon refused"] == "Set `optimizer: adamw`."


def test_one_process_refuses_a_spoiled_step_too():
    result = spoiled(make(rarely=False))
    assert not torch.isfinite(torch.tensor(result["norm"]))
    assert apart(result["before"], result["after"]) == 0
