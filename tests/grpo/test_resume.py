"""Whole trainings: interrupted, killed, stopped by a guard, and with rows that cannot be used."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from schemas.grpo_guards import GrpoGuards
from tests.grpo.killed import MOMENTS, run_until
from tests.grpo.short import SHORT, assert_equal
from tests.grpo.table import fitted_student, pairs_of, poisons, rl_store
from tests.training.steplog import lines, losses
from tests.training.stopping import Stopped, never, stop_after
from umer1_core.errors import Fatal
from umer1_core.grpo.train import HeldOut, train


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("grpo")


@pytest.fixture(scope="module")
def store(place):
    return rl_store(place, pairs_of(place))


@pytest.fixture(scope="module")
def whole(place, store):
    """The folder of a training that was not interrupted."""
    run(store, SHORT, place / "whole")
    return place / "whole"


def changed(**values):
    return SHORT.model_copy(update=values)


def run(store, grpo, folder, on_progress=None):
    return train(store, grpo, fitted_student(), str(folder), HeldOut(), on_progress)


# -- going on --------------------------------------------------------------------------------------------------------


def test_an_interrupted_training_ends_as_one_that_was_not(place, store):
    """Two updates a block: the second is of rollouts that only the first's process has."""
    grpo = changed(updates_per_block=2, steps=4)
    run(store, grpo, place / "whole of two")
    with pytest.raises(Stopped):
        run(store, grpo, place / "cut", stop_after(3))
    assert [line["step"] for line in losses(place / "cut")] == [1, 2, 3]
    report = run(store, grpo, place / "cut")
    assert (report.resumed_from, report.steps, report.stopped) == (2, 4, "")
    assert_equal(place / "cut", place / "whole of two")
    log = losses(place / "cut")
    assert [line["step"] for line in log] == [1, 2, 3, 4]
    assert ["hit" in line for line in log] == [True, False] * 2 and log[1]["clip"] >= 0
    assert any(line["group_std"] > 0 for line in log[::2])  # or nothing was learned and nothing shown
    assert run(store, grpo, place / "cut", never) == report


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "resumed"), zip(MOMENTS, (4, 2, 2, 6, 6), strict=True), ids=[moment.split()[-1] for moment in MOMENTS]
)
def test_a_training_killed_at_any_moment_ends_as_one_that_was_not(place, store, whole, moment, resumed):
    folder = place / "killed" / moment
    run_until(moment, store.root, SHORT, fitted_student(), folder)
    assert not (folder / "finished.json").exists()
    left = {found.name for found in (folder / "checkpoints").glob("checkpoint-*")}
    marked = {found.parent.name for found in (folder / "checkpoints").glob("checkpoint-*/meta.json")}
    assert (f"checkpoint-{resumed + 2}" in left - marked) == (resumed == 2), (left, marked)

    report = run(store, SHORT, folder)

    assert (report.resumed_from, report.steps) == (resumed, 6)
    assert_equal(folder, whole)
    found = {found.parent.name for found in (folder / "checkpoints").glob("checkpoint-*/meta.json")}
    assert found == {"checkpoint-2", "checkpoint-4", "checkpoint-6"}


@pytest.mark.slow
def test_a_checkpoint_without_its_mark_is_dropped_and_not_resumed(place, store, whole):
    folder = place / "unmarked"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "model")
    (folder / "finished.json").unlink()
    (folder / "checkpoints" / "checkpoint-6" / "meta.json").unlink()
    left = folder / "checkpoints" / "checkpoint-6" / "optimizer.pt.half"
    left.write_bytes(b"half")
    report = run(store, SHORT, folder)
    assert report.resumed_from == 4 and left.parent.is_dir() and not left.exists()
    assert_equal(folder, whole)


@pytest.mark.slow
def test_what_other_settings_made_is_set_aside_and_nothing_of_it_is_used(place, store):
    folder = place / "other"
    short = changed(steps=1, checkpoint_every=1)
    first = run(store, short, folder)
    weights = (folder / "model" / "model.safetensors").read_bytes()
    report = run(store, short.model_copy(update={"learning_rate": 2e-3}), folder)
    earlier = folder / "earlier" / "1"
    assert first.resumed_from == report.resumed_from == 0 and len(losses(folder)) == 1
    assert (earlier / "model" / "model.safetensors").read_bytes() == weights
    assert {"checkpoints", "rollouts", "losses.jsonl", "finished.json"} <= {found.name for found in earlier.iterdir()}
    run(store, short.model_copy(update={"learning_rate": 2e-3, "checkpoint_every": 5}), folder, never)


# -- guards ----------------------------------------------------------------------------------------------------------

GUARDS = GrpoGuards(window=4, warm_up=4, sigmas=0, max_kl=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 100], ids=["checkpoints", "none yet"])
def test_a_collapse_stops_the_training_and_keeps_what_was_before_it(place, store, every):
    grpo, folder = changed(learning_rate=0.1, guards=GUARDS, steps=12, checkpoint_every=every), place / f"bad {every}"
    report = run(store, grpo, folder)
    last = len(losses(folder))
    assert 4 < last < 12 and report.stopped.startswith(f"Step {last}: ")
    assert report.steps == (last - 4 if every == 1 else 0)
    expected = load_file(f"{folder}/checkpoints/checkpoint-{last - 4}/model.safetensors" if every == 1 else
                         f"{fitted_student()}/model.safetensors")  # fmt: skip
    found = load_file(folder / "model" / "model.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    assert json.loads((folder / "finished.json").read_text())["report"]["stopped"] == report.stopped
    assert run(store, grpo, folder, never) == report
    # With other limits it goes on from what was kept, and no further.
    looser = grpo.model_copy(update={"guards": GrpoGuards(enabled=False)})
    gone_on = run(store, looser, folder)
    assert (gone_on.resumed_from, gone_on.steps, gone_on.stopped) == (report.steps, 12, "")
    assert [line["step"] for line in losses(folder)] == [*range(1, 13)]
    found = load_file(folder / "model" / "model.safetensors")
    assert any(not torch.equal(found[name], expected[name]) for name in expected)
    assert run(store, looser, folder, never) == gone_on


@pytest.mark.slow
def test_the_same_training_without_guards_goes_on_to_its_end(place, store):
    """Negative control."""
    report = run(store, changed(learning_rate=0.1, steps=4), place / "unguarded")
    assert report.steps == 4 and not report.stopped


# -- rows that cannot be used ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def poisoned(place):
    """One good row of six."""
    return rl_store(place / "poisoned", pairs_of(place), dict(enumerate(poisons(place).values())))


def test_rows_of_no_use_are_named_and_a_block_of_them_alone_changes_nothing(place, poisoned):
    """Also not by what the optimizer remembers of the steps before, or by weight decay."""
    folder = place / "rejected"
    change = {"loss_type": "dapo", "anchor": 0.2, "weight_decay": 0.1, "guards": GrpoGuards(window=8)}
    report = run(poisoned, changed(checkpoint_every=1, **change), folder)
    rejected = {line["pair_id"]: line["reason"] for line in lines(folder / "rejections.jsonl")}
    assert rejected == {pair.pair_id: reason for pair, reason in zip(pairs_of(place), poisons(place), strict=False)}
    assert (report.rejected_pairs, report.steps, report.stopped) == (5, 6, "")
    log = losses(folder)
    assert sorted(line["rejected"] for line in log) == [1, 1, 2, 2, 2, 2]
    places = [f"{folder}/checkpoints/checkpoint-{step}/model.safetensors" for step in range(1, 7)]
    weights = [load_file(path) for path in (f"{fitted_student()}/model.safetensors", *places)]
    for line, before, after in zip(log, weights, weights[1:], strict=False):
        same = all(torch.equal(before[name], after[name]) for name in before)
        assert same == (line["rejected"] == 2), line
        assert all(torch.isfinite(tensor).all() for tensor in after.values())
        if same:
            assert (line["loss"], line["grad_norm"], line["rollouts"]) == (0, 0, 0)
            assert line["reward"] is line["kl"] is line["entropy"] is None


def test_a_recipe_may_stop_at_the_first_row_of_no_use(place, poisoned):
    folder = place / "strict"
    with pytest.raises(Fatal, match=r"Pair \S+ of test/rl cannot be used: \w+: (query|target): ") as caught:
        run(poisoned, changed(on_bad_row="stop"), folder)
    assert "on_bad_row: skip" in caught.value.remedy and "rejections.jsonl" in caught.value.remedy
    (line,) = lines(folder / "rejections.jsonl")
    assert line["pair_id"] in caught.value.args[0]
