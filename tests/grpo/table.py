"""A small `rl` table, rollouts that are given and not sampled, and a trainer over both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback

from schemas.grpo import Grpo
from tests.student import clip, cold_start_row, picture, small_student
from umer1_core.backbone.collate import IGNORED, Encoder, collate
from umer1_core.backbone.forward import hidden_states
from umer1_core.backbone.model import Backbone, load_backbone, save_backbone
from umer1_core.grpo.pairs import COLUMNS, RLPairs, make_order
from umer1_core.grpo.records import neighbours, step_numbers
from umer1_core.grpo.rollouts.face import Completion, Prompt, Rollouts, Sampling, SaveWeights
from umer1_core.grpo.rollouts.with_transformers import WithTransformers
from umer1_core.grpo.setup import banned_ids, make_rewards, reward_weights, trainer_arguments
from umer1_core.grpo.sides import SideReader
from umer1_core.grpo.trainer import EmbeddingGRPOTrainer, Metrics, Parts, Scores
from umer1_core.pairs import Media, Pair, Side, pair_id, side_record
from umer1_core.store import Store
from umer1_core.template import training_prompt, training_response
from umer1_core.training.data.pair_table import Rejection
from umer1_core.training.ranks import join_ranks

TINY = Grpo(steps=2, block_pairs=4, group=2, micro_pairs=2, max_new_tokens=12, learning_rate=1e-3, evaluate_every=0)
_FITTING = 28


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


def rl_store(folder: Path, pairs: Sequence[Pair], changes: Mapping[int, Mapping[str, Any]] | None = None) -> Store:
    """changes: by row, columns that are written over."""
    store = Store(str(folder / "data"))
    store.write_shard("cold_start", "00000", [cold_start_row(pair) for pair in pairs])
    rows = [rl_row(pair) | dict((changes or {}).get(place, {})) for place, pair in enumerate(pairs)]
    store.write_shard("rl", "00000", rows)
    return store


def rl_row(pair: Pair) -> dict[str, Any]:
    row = cold_start_row(pair)
    kept = {name: row[name] for name in COLUMNS}
    return kept | {"origin": "cold_start", "block": 0, "row": "", "negatives": []}


Told = Callable[[Prompt, tuple[int, ...]], tuple[float, ...]]
"""A rollout's log-probs as its sampler tells them."""


class Given:
    """Completions that follow from a prompt and a place, without their embeddings; told: where log-probs come along."""

    reads_vectors = False

    def __init__(self, backbone: Backbone, told: Told | None = None) -> None:
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
        written = (*tokenizer(text, add_special_tokens=False)["input_ids"], ids.end_of_turn)
        return Completion(written, self.told(prompt, written) if self.told else None)


def poisons(folder: Path) -> dict[str, dict[str, Any]]:
    """Columns that make a row of no use, by the reason for it, with at most 2,000 tokens a prompt."""
    gone = Media("image", str(folder / "gone.png"), content_hash="0" * 64)
    return {
        "media_missing": {"query_media": side_record(Side("", (gone,)))["media"]},
        "empty_side": {"target_prompt": training_prompt(" "), "target_media": []},
        "too_many_tokens": {"query_prompt": training_prompt("word " * 10_000)},
        "placeholder_in_text": {"target_prompt": training_prompt("A caption of <|image_pad|>.")},
        "no_disc_emb": {"query_prompt": "A turn without the token."},
    }


class Kept(TrainerCallback):
    """Of every step: its gradients after clipping, its record, and what its block earned; and the rejected pairs."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.records: list[dict[str, Any]] = []
        self.scores: list[Scores] = []
        self.rejected: list[Rejection] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:
            self.records.append(dict(logs))


def saved_student(folder: Path) -> Path:
    """An untrained student; what it writes has no form."""
    place = folder / "base"
    if not place.exists():
        place.mkdir(parents=True)
        save_backbone(small_student(), place)
    return place


@cache
def fitted_student() -> str:
    """A student that writes the form about every other time; fitted once a process."""
    folder = Path(mkdtemp(prefix="umer1-fitted-"))
    backbone = load_backbone(str(saved_student(folder)))
    encoder, pairs = Encoder(backbone, 2_000), pairs_of(folder)
    sides = [side for pair in pairs for side in (pair.query, pair.target)]
    response = "It shows a disc"
    rows = [
        encoder.encode(training_prompt(side.text), side.media, training_response(response, side.text.split()[-1]))
        for side in sides
    ]
    batch = collate(rows, backbone.ids, backbone.device, "packed")
    labels = batch.labels[0]
    written = (labels != IGNORED).nonzero()[:, 0]
    optimizer = torch.optim.AdamW(backbone.model.parameters(), lr=5e-3)
    for _ in range(_FITTING):
        logits = backbone.model.lm_head(hidden_states(backbone, batch)[0][written - 1])
        optimizer.zero_grad()
        cross_entropy(logits, labels[written]).backward()
        optimizer.step()
    place = folder / "fitted"
    place.mkdir()
    save_backbone(backbone, place)
    return str(place)


def make_trainer(
    folder: Path,
    store: Store,
    grpo: Grpo,
    source: Callable[[Backbone], Rollouts] = Given,
    base: str = "",
    **changes: Any,
) -> tuple[EmbeddingGRPOTrainer, Kept]:
    """base: a checkpoint, otherwise an untrained student; changes: of the trainer's parts."""
    # Before the ranks meet: transformers saves a model on the first of them alone.
    backbone = load_backbone(base or str(saved_student(folder)), "sdpa")
    ranks, pairs, kept = join_ranks(), RLPairs(store), Kept()
    order = make_order(pairs, grpo.block_pairs, grpo.group, ranks.world, grpo.seed)

    def block(scores: Scores) -> Metrics:
        kept.scores.append(scores)
        return step_numbers(scores, neighbours(scores), backbone.ids.end_of_turn)

    parts = Parts(
        backbone, grpo, pairs, order, SideReader(pairs, Encoder(backbone, grpo.max_prompt_tokens)), source(backbone),
        make_rewards(grpo), reward_weights(grpo), ranks, lambda place: save_backbone(backbone, place),
        kept.rejected.append, block,
    )  # fmt: skip
    arguments = trainer_arguments(grpo, folder / "run", ranks.world)
    return EmbeddingGRPOTrainer(replace(parts, **changes), arguments, [kept]), kept


def sampler(grpo: Grpo) -> Callable[[Backbone], Rollouts]:
    """Rollouts by the policy itself."""
    return lambda backbone: WithTransformers(
        backbone, Sampling(grpo.temperature, grpo.max_new_tokens, banned_ids(backbone))
    )
