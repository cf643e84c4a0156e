"""A recipe as arguments of TRL, and what of a launch stage 2 refuses."""

from contextlib import nullcontext

import orjson
import pytest

from schemas.grpo import Grpo
from tests.grpo.table import TINY
from umer1_core.errors import Fatal
from umer1_core.grpo.setup import trainer_arguments

ZERO = {"ACCELERATE_USE_DEEPSPEED": "true"}


@pytest.mark.parametrize(
    ("variables", "refused"),
    [
        (ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, True),
        (ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, False),
        (ZERO, False),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, False),  # left over: this is no launch of DeepSpeed
    ],
)
def test_zero_3_is_refused_with_what_to_launch_instead(tmp_path, monkeypatch, variables, refused):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Fatal, match="ZeRO-3") if refused else nullcontext() as caught:
        trainer_arguments(TINY, tmp_path, 1)
    assert not refused or "ZeRO-2 or FSDP2" in caught.value.remedy


@pytest.mark.parametrize("stage", [3, 2])
def test_the_stage_of_a_deepspeed_config_file_counts(tmp_path, monkeypatch, stage):
    file = tmp_path / "deepspeed.json"
    file.write_bytes(orjson.dumps({"zero_optimization": {"stage": stage}}))
    for name, value in (ZERO | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Fatal, match="ZeRO-3") if stage == 3 else nullcontext():
        trainer_arguments(TINY, tmp_path, 1)


def test_presets_and_options_reach_the_objective(tmp_path):
    paper, released = (trainer_arguments(Grpo(preset=name), tmp_path, 1) for name in ("paper", "released"))
    assert (paper.epsilon, paper.epsilon_high, paper.loss_type, paper.beta) == (0.2, None, "grpo", 0.04)
    assert (released.epsilon, released.epsilon_high, released.loss_type) == (0.2, 0.28, "dr_grpo")
    assert paper.num_generations == 8 and paper.learning_rate == 1e-6 and paper.scale_rewards == "group"
    assert paper.generation_batch_size == 2 * 256  # 256 rollouts of queries, and as many of targets
    assert paper.multi_objective_aggregation == "sum_then_normalize"
    apart = trainer_arguments(Grpo(aggregation="gdpo", reward={"embedding_weight": 2.0}), tmp_path, 1)
    assert apart.multi_objective_aggregation == "normalize_then_sum" and apart.reward_weights == [1.0, 2.0]
