"""Evaluation with a real, untrained student."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from schemas.recipe import Evaluation, Recipe
from schemas.training import Training
from tests.student import cold_start_store, small_pairs
from umer1_core.backbone.model import checkpoint_hash
from umer1_core.errors import ValidationFailed
from umer1_core.evaluation import evaluate as module
from umer1_core.evaluation.evaluate import evaluate, evaluate_recipe
from umer1_core.pairs import pair_record
from umer1_core.sft.train import train
from umer1_core.store import Store

SETTINGS = Training(model="miniature", steps=2, batch_pairs=6, warmup_steps=1, learning_rate=1e-3, max_tokens=512)
RECIPE = Recipe.model_validate(
    {
        "name": "test",
        "output": "unused",
        "sources": [{"kind": "mmeb", "root": "unused"}],
        "annotation": {"model": "unused"},
        "training": SETTINGS.model_dump(),
        "evaluation": {"max_new_tokens": 12, "batch": 8},
    }
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A trained data set and its held-out pairs."""
    folder = tmp_path_factory.mktemp("evaluation")
    pairs = small_pairs(folder)
    store = cold_start_store(folder, pairs)
    train(store, SETTINGS, f"{store.root}/sft")
    held_out = Store(f"{store.root}/held_out")
    held_out.write_shard("pairs", "00000", [pair_record(pair) for pair in pairs])
    return store, held_out


def test_scores_hold_both_modes_chance_and_the_untrained_student(stores):
    store, held_out = stores
    seen = []
    scores = evaluate_recipe(store, held_out, RECIPE, lambda done, total: seen.append((done, total)))
    for part in ("overall", "untrained"):
        assert {"generative", "discriminative", "oracle", "chance"} <= set(scores[part])
    assert scores["overall"]["chance"] == pytest.approx(1 / 12) and scores["overall"]["queries"] == 12
    assert scores["sources"]["test/caption"]["candidates"] == 12 and set(scores["modalities"]) == {"image"}
    assert scores["ok"]["discriminative"] == 1.0
    assert (24, 24) in seen and store.read_json("scores.json") == scores


def test_the_same_evaluation_again_embeds_nothing_and_changes_nothing(stores, monkeypatch):
    store, held_out = stores
    evaluate_recipe(store, held_out, RECIPE)
    before = store.read_bytes("scores.json")
    monkeypatch.setattr(module, "load_backbone", None)
    evaluate_recipe(store, held_out, RECIPE)
    assert store.read_bytes("scores.json") == before


def test_a_killed_evaluation_goes_on_with_the_sides_that_are_left(stores):
    store, held_out = stores
    evaluate_recipe(store, held_out, RECIPE)
    scores = store.read_json("scores.json")
    store.delete("scores.json")
    shards = [name for name in store.fs.find(store.at("evaluation/vectors")) if name.endswith(".parquet")]
    store.fs.rm_file(shards[0])
    seen = []
    assert evaluate_recipe(store, held_out, RECIPE, lambda done, total: seen.append(done)) == scores
    assert seen and len(seen) <= 3, "only the lost shard's sides are embedded again"


def test_no_pairs_is_an_error_that_says_where_to_look(tmp_path):
    with pytest.raises(ValidationFailed, match=r"evaluation\.sources"):
        module.evaluate("unused", [], Evaluation(), Store(str(tmp_path)))


def test_the_discriminative_baseline_is_scored_beside_the_student_once_it_is_trained(stores):
    store, held_out = stores
    assert "dume" not in evaluate_recipe(store, held_out, RECIPE)
    train(store, SETTINGS.model_copy(update={"objective": "dume"}), f"{store.root}/dume")
    scores = evaluate_recipe(store, held_out, RECIPE)
    assert scores["dume"]["discriminative"] > 0 == scores["dume"]["generative"]


def test_after_grpo_its_model_is_scored_first_and_the_student_of_sft_beside_it(stores, tmp_path, monkeypatch):
    place = Path(shutil.copytree(stores[0].root, tmp_path / "data"))
    store, held_out = Store(str(place)), Store(str(place / "held_out"))
    shutil.rmtree(place / "dume", ignore_errors=True)
    before = evaluate_recipe(store, held_out, RECIPE)
    scored: list[str] = []

    def watched(model: str, *others: Any) -> Any:
        scored.append(str(Path(model).relative_to(place)))
        return evaluate(model, *others)

    monkeypatch.setattr(module, "evaluate", watched)
    shutil.copytree(place / "sft" / "base", place / "grpo" / "model")  # another checkpoint stands in for GRPO's
    assert evaluate_recipe(store, held_out, RECIPE) == before and not scored, "no GRPO has come to its end"
    store.write_json("grpo/finished.json", {"base_hash": checkpoint_hash(place / "sft" / "model")})
    after = evaluate_recipe(store, held_out, RECIPE)
    assert scored == ["grpo/model", "sft/model", "sft/base"]
    assert (after["sft"], after["sft_pooled"]) == (before["overall"], before["pooled"])
    assert after["inputs"] != before["inputs"] and store.read_json("scores.json") == after

    store.write_json("grpo/finished.json", {"base_hash": "of the student of an earlier SFT"})
    assert evaluate_recipe(store, held_out, RECIPE) == before and scored[3:] == ["sft/model", "sft/base"]
