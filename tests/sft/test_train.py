"""A real training of the miniature's student on twelve pairs, for a few steps."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import load_file

from schemas.training import Training
from tests.sft.short import SHORT
from tests.student import cold_start_store, small_pairs
from tests.training.steplog import lines, losses
from tests.training.stopping import Stopped, never, stop_after
from umer1_core.backbone.model import load_backbone
from umer1_core.errors import Fatal
from umer1_core.sft.optimizer import rate_factor
from umer1_core.sft.step.two_pass import StepReport
from umer1_core.sft.train import train
from umer1_core.store import Store
from umer1_core.training.checkpoint import Identity, newest_checkpoint, save_checkpoint
from umer1_core.training.data.cold_start import ColdStart
from umer1_core.training.ranks import join_ranks


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("sft")


@pytest.fixture(scope="module")
def store(place):
    return cold_start_store(place, small_pairs(place))


@pytest.fixture(scope="module")
def whole(store, place):
    """The report of a training that was not interrupted."""
    return train(store, SHORT, str(place / "whole"))


def changed(**values):
    return SHORT.model_copy(update=values)


def test_losses_fall_and_are_logged_once_a_step(whole, place):
    log = losses(place / "whole")
    assert [line["step"] for line in log] == list(range(1, 9)) and log[-1]["loss"] < log[0]["loss"]
    assert all(line["loss"] == pytest.approx(line["disc"] + line["gen"] + line["token"], rel=1e-5) for line in log)
    assert all(line["processed_tokens"] == line["real_tokens"] > line["tokens"] and line["packs"] > 1 for line in log)
    assert json.loads((place / "whole" / "progress.json").read_text())["step"] == 8


def test_a_training_interrupted_twice_goes_on_along_the_same_trajectory(whole, store, place):
    for step in (5, 7):
        with pytest.raises(Stopped):
            train(store, SHORT, str(place / "cut"), stop_after(step))
    report = train(store, SHORT, str(place / "cut"))
    assert report.resumed_from == 6
    assert losses(place / "cut") == losses(place / "whole")
    assert lines(place / "cut" / "evaluations.jsonl") == lines(place / "whole" / "evaluations.jsonl")
    weights = [(place / name / "model" / "model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_training_killed_with_9_goes_on_along_the_same_trajectory(whole, store, place):
    code = (
        "import json, sys; from schemas.training import Training; from umer1_core.sft.train import train;"
        "from umer1_core.store import Store;"
        "train(Store(sys.argv[1]), Training(**json.loads(sys.argv[2])), sys.argv[3])"
    )
    arguments = [sys.executable, "-c", code, store.root, SHORT.model_dump_json(), str(place / "killed")]
    process = subprocess.Popen(arguments, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)
    while not (place / "killed" / "checkpoints" / "step-000003").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert train(store, SHORT, str(place / "killed")).resumed_from in (3, 6)
    assert losses(place / "killed") == losses(place / "whole")


def test_a_resumed_training_may_use_other_packs(whole, store, place):
    """After running out of memory: the loss curve is the same to rounding. Without noise, which is drawn by pack."""
    plain = changed(response_noise=0.0, steps=5)
    train(store, plain, str(place / "wide"))
    with pytest.raises(Stopped):
        train(store, plain, str(place / "narrow"), stop_after(4))
    report = train(store, plain.model_copy(update={"pack_tokens": 2048, "layout": "padded"}), str(place / "narrow"))
    assert report.resumed_from == 3
    both = [[line["loss"] for line in losses(place / name)] for name in ("wide", "narrow")]
    assert both[0] == pytest.approx(both[1], rel=1e-3)


def test_a_finished_training_is_not_repeated(whole, store, place):
    assert train(store, SHORT, str(place / "whole"), never) == whole


def test_other_settings_start_anew_and_the_earlier_model_is_kept(store, place):
    short = changed(steps=2, evaluate_every=0)
    folder = str(place / "other")
    train(store, short, folder)
    report = train(store, short.model_copy(update={"learning_rate": 1e-3}), folder)
    assert report.resumed_from == 0 and len(losses(place / "other")) == 2
    assert (place / "other" / "earlier" / "1" / "model" / "model.safetensors").is_file()


def test_the_held_out_slice_is_never_trained_on_and_the_best_checkpoint_is_kept(whole, store, place):
    scores = lines(place / "whole" / "evaluations.jsonl")
    assert [record["step"] for record in scores] == [4, 8] and all("cot_swapped" in record for record in scores)
    assert all(record["pairs"] == 6 and record["epoch"] == i for i, record in enumerate(losses(place / "whole")))
    best = max(scores, key=lambda record: record["hit"])
    assert (whole.best, whole.best_step) == (str(place / "whole" / "best"), best["step"])
    load_backbone(whole.best)


# -- what can go wrong -----------------------------------------------------------------------------------------------


def test_a_damaged_row_is_left_out_with_its_reason_and_not_replaced(place):
    folder = place / "damaged"
    pairs = small_pairs(folder)
    (folder / "red-left-128.png").write_bytes(b"no picture")
    settings = changed(steps=2, held_out_pairs=0, evaluate_every=0)
    report = train(cold_start_store(folder, pairs), settings, str(folder / "sft"))
    rejected = lines(folder / "sft" / "rejections.jsonl")
    assert report.rejected_rows == 1 and [r["pair_id"] for r in rejected] == [pairs[0].pair_id]
    assert rejected[0]["reason"]
    assert sum(line["pairs"] for line in losses(folder / "sft")) == 11
    with pytest.raises(Fatal, match=pairs[0].pair_id):
        train(Store(str(folder / "data")), settings.model_copy(update={"on_bad_row": "stop"}), str(folder / "strict"))


def test_rows_over_the_limit_are_named_before_the_first_step(store, place):
    seen = []
    with pytest.raises(Exception, match="No row can be trained on"):
        train(store, changed(max_tokens=20, held_out_pairs=0, evaluate_every=0), str(place / "long"), seen.append)
    rejected = lines(place / "long" / "rejections.jsonl")
    assert not seen and len(rejected) == 12 and {r["reason"] for r in rejected} == {"too_many_tokens"}


def exploding(monkeypatch, steps):
    """Make the loss of some steps no number."""
    from umer1_core.sft import trainer

    calls = itertools.count(1)
    real = trainer.sft_step

    def step(*arguments):
        report = real(*arguments)
        if next(calls) in steps:
            return StepReport(
                **{**{f: getattr(report, f) for f in report.__slots__}, "disc": float("nan"), "loss": float("nan")}
            )
        return report

    monkeypatch.setattr(trainer, "sft_step", step)


def test_a_step_whose_loss_is_no_number_changes_nothing_and_is_counted(store, place, monkeypatch):
    exploding(monkeypatch, {2})
    settings = changed(steps=3, evaluate_every=0)
    seen = []

    def look(record):
        seen.append(orjson.loads((place / "nan" / "progress.json").read_bytes())["loss"])

    train(store, settings, str(place / "nan"), look)
    log = lines(place / "nan" / "losses.jsonl")
    assert [line["skipped"] for line in log] == [0, 1, 0]
    assert seen == [line["loss"] for line in log] and seen[1] is None
    assert lines(place / "nan" / "rejections.jsonl")[0]["reason"] == "loss_not_finite"


def test_too_many_such_steps_or_the_recipes_wish_end_the_training(store, place, monkeypatch):
    exploding(monkeypatch, {1, 2, 3})
    with pytest.raises(Fatal, match="2 such steps in a row"):
        train(store, changed(max_bad_steps=2), str(place / "many"))
    exploding(monkeypatch, {1, 2, 3})
    with pytest.raises(Fatal, match="Step 1 changed nothing"):
        train(store, changed(on_bad_step="stop"), str(place / "first"))


# -- checkpoints -----------------------------------------------------------------------------------------------------


def empty(place: Path) -> None:
    (place / "file").touch()


def test_a_checkpoint_of_other_data_is_not_resumed_and_a_half_written_one_not_seen(tmp_path):
    mine = Identity("data", "settings")
    save_checkpoint(tmp_path, 3, mine, empty, join_ranks())
    (tmp_path / ".tmp-step-000009").mkdir()
    assert newest_checkpoint(tmp_path, mine) == (3, tmp_path / "step-000003")
    assert newest_checkpoint(tmp_path, Identity("other", "settings")) is None


def test_only_the_newest_two_checkpoints_stay(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, Identity("d", "s"), empty, join_ranks())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000002", "step-000003"]


# -- what is trained -------------------------------------------------------------------------------------------------


def moved_weights(before: str, after: str) -> set[str]:
    first, last = (load_file(Path(folder) / "model.safetensors") for folder in (before, after))
    return {name for name in first if not torch.equal(first[name], last[name])}


def test_a_named_checkpoint_keeps_its_vision_tower_and_learns_the_rest(whole, store, place):
    named = changed(model=whole.base, optimizer="adamw", steps=2, evaluate_every=0)
    moved = moved_weights(whole.base, train(store, named, str(place / "named")).model)
    assert moved and not any("visual.blocks" in name or "patch_embed" in name for name in moved)
    assert any("visual.merger" in name for name in moved)


def test_lora_trains_from_the_same_recipe_and_leaves_a_plain_checkpoint(whole, store, place):
    lora = changed(model=whole.base, optimizer="adamw", steps=2, lora_rank=4, evaluate_every=0)
    report = train(store, lora, str(place / "lora"))
    moved = moved_weights(whole.base, report.model)
    assert any("q_proj" in name for name in moved) and not any("norm" in name for name in moved)
    assert not any("lora" in name for name in load_file(Path(report.model) / "model.safetensors"))


def test_the_discriminative_baseline_learns_from_prompts_alone(store, place):
    report = train(store, changed(objective="dume", steps=4), str(place / "dume"))
    log = losses(place / "dume")
    assert all(line["gen"] == line["token"] == line["tokens"] == 0 < line["disc"] for line in log)
    assert log[-1]["disc"] < log[0]["disc"] and report.best
    assert "hit_gen" not in lines(place / "dume" / "evaluations.jsonl")[0]


def test_a_learned_temperature_moves_and_is_resumed(store, place):
    settings = changed(learn_temperature=True, evaluate_every=0, steps=6)
    train(store, settings, str(place / "learned"))
    with pytest.raises(Stopped):
        train(store, settings, str(place / "learned-cut"), stop_after(5))
    train(store, settings, str(place / "learned-cut"))
    temperatures = [line["temperature"] for line in losses(place / "learned")]
    assert temperatures[0] == pytest.approx(0.05) and len(set(temperatures)) == 6
    assert losses(place / "learned-cut") == losses(place / "learned")


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_the_presets_train(store, place, preset):
    settings = Training(**{**SHORT.model_dump(exclude_unset=True), "preset": preset, "steps": 2, "evaluate_every": 0})
    assert settings.token_loss == preset and not settings.mask_equal
    assert train(store, settings, str(place / preset)).loss > 0


def test_the_rate_warms_up_and_falls():
    for schedule in ("linear", "cosine"):
        settings = changed(steps=100, warmup_steps=10, schedule=schedule)
        factors = [rate_factor(settings, step) for step in range(100)]
        assert factors[0] == pytest.approx(0.1) and factors[10] == pytest.approx(1.0) and factors[-1] < 0.05
        assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


def test_training_knows_its_data_set_by_content(store):
    assert ColdStart(store).data_hash == ColdStart(Store(store.root)).data_hash
