"""A real training of the miniature's student on twelve pairs, for a few steps."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from schemas.recipe import Training
from tests.student import cold_start_row, cold_start_store, small_pairs, small_student
from umer1_core.backbone.collate import IGNORED, Encoder, collate
from umer1_core.errors import Fatal
from umer1_core.sft.checkpoint import Identity, load_checkpoint, save_checkpoint
from umer1_core.sft.data import ColdStart
from umer1_core.sft.losses import equal_entries, info_nce
from umer1_core.sft.optimizer import rate_factor
from umer1_core.sft.step import LossSettings, PairRows, misread, sft_step
from umer1_core.sft.train import train
from umer1_core.store import Store

SHORT = Training(
    model="miniature",
    steps=8,
    batch_pairs=6,
    learning_rate=3e-3,
    optimizer="muon",
    warmup_steps=2,
    temperature=0.05,
    schedule="linear",
    response_noise=0.2,
    max_tokens=512,
    checkpoint_every=3,
)


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


def losses(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]


def test_losses_fall_and_are_logged_once_a_step(whole, place):
    log = losses(place / "whole")
    assert [line["step"] for line in log] == list(range(1, 9)) and log[-1]["loss"] < log[0]["loss"]
    assert all(line["loss"] == pytest.approx(line["disc"] + line["gen"] + line["token"], rel=1e-5) for line in log)
    assert json.loads((place / "whole" / "progress.json").read_text())["step"] == 8


class Stopped(Exception):
    pass


def test_an_interrupted_training_goes_on_along_the_same_trajectory(whole, store, place):
    def stop(step, steps, terms):
        if step == 5:
            raise Stopped

    with pytest.raises(Stopped):
        train(store, SHORT, str(place / "cut"), stop)
    report = train(store, SHORT, str(place / "cut"))
    assert report.resumed_from == 3
    assert losses(place / "cut") == losses(place / "whole")
    weights = [(place / name / "model" / "model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_training_killed_with_9_goes_on_along_the_same_trajectory(whole, store, place):
    code = (
        "import json, sys; from schemas.recipe import Training; from umer1_core.sft.train import train;"
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


def test_a_finished_training_is_not_repeated(whole, store, place):
    def never(step, steps, terms):
        raise AssertionError("a step was taken")

    assert train(store, SHORT, str(place / "whole"), never) == whole


def test_other_settings_start_anew_and_the_earlier_model_is_kept(store, place):
    short = SHORT.model_copy(update={"steps": 2})
    folder = str(place / "other")
    train(store, short, folder)
    report = train(store, short.model_copy(update={"learning_rate": 1e-3}), folder)
    assert report.resumed_from == 0 and len(losses(place / "other")) == 2
    assert (place / "other" / "earlier" / "1" / "model" / "model.safetensors").is_file()


def test_a_damaged_row_is_left_out_with_its_reason_and_not_replaced(place):
    folder = place / "damaged"
    pairs = small_pairs(folder)
    (folder / "red-left-128.png").write_bytes(b"no picture")
    report = train(cold_start_store(folder, pairs), SHORT.model_copy(update={"steps": 2}), str(folder / "sft"))
    rejected = [json.loads(line) for line in (folder / "sft" / "rejections.jsonl").read_text().splitlines()]
    assert report.rejected_rows == 1 and [r["pair_id"] for r in rejected] == [pairs[0].pair_id]
    assert rejected[0]["reason"]
    assert sum(line["pairs"] for line in losses(folder / "sft")) == 11


def test_a_checkpoint_of_other_data_is_not_resumed_and_a_half_written_one_not_seen(tmp_path):
    mine = Identity("data", "settings")
    save_checkpoint(tmp_path, 3, mine, {"x": torch.ones(1)})
    (tmp_path / ".tmp-step-000009").mkdir()
    assert load_checkpoint(tmp_path, mine)[0] == 3
    assert load_checkpoint(tmp_path, Identity("other", "settings")) is None


def test_only_the_newest_two_checkpoints_stay(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, Identity("d", "s"), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000002", "step-000003"]


# -- one step --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair_rows(place):
    encoder = Encoder(small_student(), 512)
    rows = []
    for pair in small_pairs(place):
        row = cold_start_row(pair)
        query = encoder.encode(row["query_prompt"], pair.query.media, row["query_response"])
        target = encoder.encode(row["target_prompt"], (), row["target_response"])
        rows.append(PairRows(query, target, row["query_key"], row["target_key"]))
    return rows


def gradient(backbone) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in backbone.model.parameters()])
    backbone.model.zero_grad()
    return found


def test_the_steps_gradient_is_that_of_one_plain_batch(pair_rows):
    """Grouping rows by length changes neither the losses nor the gradient of equation 4."""
    backbone = small_student()
    found = sft_step(backbone, pair_rows, LossSettings(0.05, "both", "token_mean"))
    mine = gradient(backbone)
    rows = [p.query for p in pair_rows] + [p.target for p in pair_rows]
    batch = collate(rows, backbone.ids, backbone.device)
    output = backbone.model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        mm_token_type_ids=batch.media_types,
        pixel_values=torch.cat([p.patches for p in batch.pixels]),
        image_grid_thw=batch.grids("image"),
        labels=batch.labels,
        output_hidden_states=True,
    )
    hidden, count = output.hidden_states[-1], len(pair_rows)
    equal = equal_entries([p.query_key for p in pair_rows], [p.target_key for p in pair_rows])
    terms = []
    for token, span in ((backbone.ids.disc, batch.user), (backbone.ids.gen, batch.assistant)):
        places = [max(i for i in range(a, b) if ids[i] == token) for ids, (a, b) in zip(batch.ids, span, strict=True)]
        vectors = torch.nn.functional.normalize(hidden[range(len(rows)), places], dim=-1)
        terms.append(info_nce(vectors[:count], vectors[count:], 0.05, equal))
    loss = terms[0] + terms[1] + output.loss
    loss.backward()
    reference = gradient(backbone)
    assert found.loss == pytest.approx(loss.item(), rel=1e-4)
    assert (found.tokens, found.disc) == (
        int((batch.labels != IGNORED).sum()),
        pytest.approx(terms[0].item(), rel=1e-4),
    )
    assert (mine - reference).norm() / reference.norm() < 1e-4


def test_bf16_as_on_a_gpu_stays_close_to_fp32(pair_rows):
    backbone = small_student()
    settings = LossSettings(0.05, "both", "token_mean")
    exact, full = sft_step(backbone, pair_rows, settings), gradient(backbone)
    rounded = sft_step(replace(backbone, dtype=torch.bfloat16), pair_rows, settings)
    half = gradient(backbone)
    assert exact.loss != rounded.loss, "nothing was computed in bf16, so this test would prove nothing"
    assert rounded.loss == pytest.approx(exact.loss, rel=0.02)
    assert torch.cosine_similarity(full, half, dim=0) > 0.98


def test_recomputing_activations_as_on_a_gpu_gives_the_same_gradient(pair_rows):
    backbone, settings = small_student(), LossSettings(0.05, "both", "token_mean")
    sft_step(backbone, pair_rows, settings)
    plain = gradient(backbone)
    backbone.model.train().gradient_checkpointing_enable()
    sft_step(backbone, pair_rows, settings)
    recomputed = gradient(backbone)
    backbone.model.eval().gradient_checkpointing_disable()
    assert (plain - recomputed).norm() / plain.norm() < 1e-5


def test_a_named_checkpoint_keeps_its_vision_tower_and_learns_the_rest(whole, store, place):
    named = SHORT.model_copy(update={"model": whole.base, "optimizer": "adamw", "steps": 2})
    report = train(store, named, str(place / "named"))
    before, after = (load_file(Path(f) / "model.safetensors") for f in (whole.base, report.model))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any("visual.blocks" in name or "patch_embed" in name for name in moved)
    assert any("visual.merger" in name for name in moved)


def test_a_row_without_the_embedding_token_is_refused(pair_rows):
    broken = Encoder(small_student(), 512).encode("no token here", (), "neither")
    with pytest.raises(Fatal, match="gen_emb"):
        sft_step(small_student(), [PairRows(broken, broken, "a", "b")] * 2, LossSettings(0.05, "both", "token_mean"))


def test_misreading_changes_words_of_the_response_only(pair_rows):
    backbone = small_student()
    batch = collate([p.query for p in pair_rows], backbone.ids, backbone.device)
    kept = (backbone.ids.gen, backbone.ids.end_of_turn)
    noisy = misread(batch.ids, batch.labels, 0.5, kept)
    changed = noisy != batch.ids
    assert changed.any() and not changed[batch.labels == IGNORED].any()
    assert not any(int(token) in kept for token in batch.ids[changed])
    assert torch.equal(misread(batch.ids, batch.labels, 0.0, kept), batch.ids)


def test_the_rate_warms_up_and_falls():
    for schedule in ("linear", "cosine"):
        settings = SHORT.model_copy(update={"steps": 100, "warmup_steps": 10, "schedule": schedule})
        factors = [rate_factor(settings, step) for step in range(100)]
        assert factors[0] == pytest.approx(0.1) and factors[10] == pytest.approx(1.0) and factors[-1] < 0.05
        assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


def test_training_knows_its_data_set_by_content(store):
    assert ColdStart(store).data_hash == ColdStart(Store(store.root)).data_hash
