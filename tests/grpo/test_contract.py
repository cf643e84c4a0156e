"""What the trainer relies on in TRL. When one of these fails, TRL has moved: read its changes before anything else."""

import inspect

import trl
from transformers import Trainer
from trl import GRPOTrainer
from trl.trainer import utils
from trl.trainer.grpo_trainer import RepeatSampler

from umer1_core.grpo.trainer import EmbeddingGRPOTrainer

OVERRIDDEN = {
    "_get_train_sampler": ["self", "dataset"],
    "_prepare_inputs": ["self", "generation_batch"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_compute_loss": ["self", "model", "inputs"],
    "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
}
SCORED = ["self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy"]


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_release_is_one_that_this_was_written_for():
    assert trl.__version__.split(".")[:2] == ["1", "16"]


def test_every_override_has_the_base_class_signature():
    for name, expected in OVERRIDDEN.items():
        assert parameters(getattr(GRPOTrainer, name)) == expected, name
        assert parameters(getattr(EmbeddingGRPOTrainer, name)) == expected, name
    base, ours = (parameters(c._get_per_token_logps_and_entropies) for c in (GRPOTrainer, EmbeddingGRPOTrainer))
    assert base[: len(SCORED)] == SCORED == ours[: len(SCORED)]


def test_nothing_else_of_the_base_class_is_overridden():
    own = {name for name in vars(EmbeddingGRPOTrainer) if not name.startswith("__")}
    known = own & set(dir(GRPOTrainer))
    assert known == {*OVERRIDDEN, "_get_per_token_logps_and_entropies"}


def test_the_base_class_calls_what_is_overridden():
    source = inspect.getsource(GRPOTrainer)
    for call in (
        "self._calculate_rewards(inputs, prompts, completions, completion_ids_list)",
        "self.rollout_func(prompts, self)",
        'required_keys = {"prompt_ids", "completion_ids", "logprobs"}',
        "self._generate_and_score_completions(generation_batch)",
        "self._buffered_inputs",
        "return self._compute_loss(model, inputs)",
        "normalizer = self.current_gradient_accumulation_steps",
    ):
        assert call in source, call
    assert "self._load_from_checkpoint(resume_from_checkpoint)" in inspect.getsource(Trainer)
    assert GRPOTrainer.loss_is_scaled_for_ga is True  # or every micro-batch would be divided twice
    assert "logits_to_keep" in inspect.getsource(GRPOTrainer._compute_loss)


def test_the_sampler_and_helpers_are_what_ours_stand_for():
    assert parameters(RepeatSampler.__init__)[:5] == [
        "self", "data_source", "mini_repeat_count", "batch_size", "repeat_count",
    ]  # fmt: skip
    assert parameters(utils.split_tensor_dict) == ["tensor_dict", "num_chunks"]
    fused = inspect.getsource(utils.add_fused_lm_head)
    assert "shift_labels" in fused and "labels = shift_labels" in fused
