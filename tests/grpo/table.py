"""A small `rl` table, rollouts that are given and not sampled, and a trainer over both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from schemas.grpo import Grpo
from tests.student import clip, cold_start_row, picture, small_student
from umer1_core.backbone.collate import Encoder
from umer1_core.backbone.model import Backbone, load_backbone, save_backbone
from umer1_core.grpo.loop import Loop
from umer1_core.grpo.pairs import COLUMNS, RLPairs, make_order
from umer1_core.grpo.records import neighbours, step_numbers
from umer1_core.grpo.rollouts.face import Completion, Prompt, Rollouts, SaveWeights
from umer1_core.grpo.rollouts.with_transformers import WithTransformers
from umer1_core.grpo.setup import make_rewards, make_rollouts, reward_weights, trainer_arguments
from umer1_core.grpo.sides import SideReader
from umer1_core.grpo.trainer import EmbeddingGRPOTrainer, Metrics, Parts, Scores
from umer1_core.pairs import Pair, Side, pair_id
from umer1_core.store import Store
from umer1_core.template import training_response
from umer1_core.training.data.pair_table import Rejection
from umer1_core.training.ranks import Ranks, join_ranks

TINY = Grpo(steps=2, block_pairs=4, group=2, micro_pairs=2, max_new_tokens=12, learning_rate=1e-3, evaluate_every=0)
__all__ = ["TINY", "Given", "Kept", "Loop", "Rollouts", "WithTransformers", "make_rollouts"]


def pairs_of(folder: Path) -> list[Pair]:
    """Two of pictures, two of text alone, two of clips: one source, so that any four are a block."""
    found = []
    for name, media in (
        ("red", (picture(folder, "red"),)),
        ("blue", (picture(folder, "blue", "left"),)),
        ("text", ()),
        ("words", ()),
        ("clip", (clip(folder, "green"),)),
        ("turned", (clip(folder, "green", reverse=True),)),
    ):
        query = Side(f"Find a caption for this {name}", media)
        found.append(Pair(pair_id("test/rl", name), "test/rl", "image", query, Side(f"A caption of {name}.")))
    return found


def rl_store(folder: Path, pairs: Sequence[Pair], **changes: Any) -> Store:
    """changes: columns of the first pair's row that are written over."""
    store = Store(str(folder / "data"))
    rows = [cold_start_row(pair) for pair in pairs]
    store.write_shard("cold_start", "00000", rows)
    taken = [{name: row[name] for name in COLUMNS} for row in rows]
    taken[0] |= changes
    rest = {"origin": "cold_start", "block": 0, "row": "", "negatives": []}
    store.write_shard("rl", "00000", [row | rest for row in taken])
    return store


class Given:
    """Completions of the words that a caller gives, with or without their embeddings."""

    reads_vectors = False

    def __init__(self, backbone: Backbone, told: bool = False) -> None:
        self.backbone, self.told = backbone, told
        self.asked: list[str] = []
        self.loaded: list[int] = []

    def load(self, step: int, save: SaveWeights) -> None:
        self.loaded.append(step)

    def sample(self, prompts: Sequence[Prompt], group: int, seed: int) -> list[list[Completion]]:
        self.asked += [prompt.key for prompt in prompts]
        return [[self._completion(prompt, place) for place in range(group)] for prompt in prompts]

    def close(self) -> None:
        pass

    def _completion(self, prompt: Prompt, place: int) -> Completion:
        tokenizer, ids = self.backbone.processor.tokenizer, self.backbone.ids
        text = training_response("It shows a disc" + " red" * place, f"{prompt.text.split()[-30]} {place}")
        if place == 1 and len(prompt.row) % 2:
            text = "A disc" + text  # malformed
        return Completion((*tokenizer(text, add_special_tokens=False)["input_ids"], ids.end_of_turn))


class Kept(TrainerCallback):
    """The gradients of every step, before they are clipped or used."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.records: list[dict[str, Any]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:
            self.records.append(dict(logs))


def saved_student(folder: Path) -> Path:
    place = folder / "base"
    if not place.exists():
        place.mkdir(parents=True)
        save_backbone(small_student(), place)
    return place


def make_trainer(
    folder: Path, store: Store, grpo: Grpo, given: bool = True, ranks: Ranks | None = None, **changes: Any
) -> tuple[EmbeddingGRPOTrainer, Kept]:
    """changes: of the trainer's parts."""
    backbone = load_backbone(str(saved_student(folder)), "sdpa")
    ranks = ranks or join_ranks()
    pairs = RLPairs(store)
    order = make_order(pairs, grpo.block_pairs, grpo.group, ranks.world, grpo.seed)
    rollouts: Rollouts = Given(backbone) if given else make_rollouts(grpo, backbone, folder, ranks)

    def block(scores: Scores) -> Metrics:
        return step_numbers(scores, neighbours(scores), backbone.ids.end_of_turn)

    def refuse(rejection: Rejection) -> None:
        raise AssertionError(f"{rejection} was not expected")

    parts = Parts(
        backbone, grpo, pairs, order, SideReader(pairs, Encoder(backbone, grpo.max_prompt_tokens)), rollouts,
        make_rewards(grpo), reward_weights(grpo), ranks, lambda place: save_backbone(backbone, place), refuse, block,
    )  # fmt: skip
    kept = Kept()
    arguments = trainer_arguments(grpo, folder / "run", ranks.world)
    return EmbeddingGRPOTrainer(replace(parts, **changes), arguments, [kept]), kept
