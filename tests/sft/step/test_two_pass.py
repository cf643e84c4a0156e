"""The two-pass step: its gradient is that of one graph over the whole step."""

import copy
from dataclasses import replace

import pytest
import torch

from tests.sft.rows import mixed_pairs
from tests.student import small_student
from umer1_core.backbone.collate import IGNORED, collate
from umer1_core.errors import Fatal
from umer1_core.sft.parallel.with_torch import OneProcess
from umer1_core.sft.step.contrast import ContrastSettings
from umer1_core.sft.step.module import SFTModule
from umer1_core.sft.step.noise import misread, shared_words
from umer1_core.sft.step.random_state import RandomState
from umer1_core.sft.step.two_pass import StepSettings, sft_step
from umer1_core.training.losses import contrastive, equal_entries
from umer1_core.training.ranks import join_ranks

TEMPERATURE = torch.tensor(0.05)
TWO_PASSES = StepSettings(pack_tokens=300, two_pass=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def pairs(folder):
    return mixed_pairs(small_student(), folder)


@pytest.fixture
def backbone():
    """A copy in training mode that drops attention weights, so that a pass that is not replayed shows."""
    backbone = replace(small_student(), model=copy.deepcopy(small_student().model))
    backbone.model.train()
    for layer in backbone.model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.2
    return backbone


def gradient(backbone, pairs, settings, temperature=TEMPERATURE, **kwargs):
    """(report, all gradients in one vector)."""
    torch.manual_seed(1)
    backbone.model.zero_grad(set_to_none=True)
    parallel = OneProcess(join_ranks(), SFTModule(backbone, **kwargs), lambda module: [])
    report = sft_step(parallel, backbone.ids, pairs, settings, temperature)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in backbone.model.parameters()]
    return report, torch.cat([part.flatten() for part in parts])


def distance(found, wanted):
    return ((found - wanted).norm() / wanted.norm()).item()


SETTINGS = {
    "default": TWO_PASSES,
    "padded": replace(TWO_PASSES, layout="padded"),
    "paper": replace(TWO_PASSES, token_loss="paper", contrast=ContrastSettings("q2t", mask_equal=False)),
    "released": replace(TWO_PASSES, token_loss="released", contrast=ContrastSettings(negatives_pool=5)),
    "all options": replace(TWO_PASSES, token_weight=3.0, contrast=ContrastSettings(hardness=3.0, cross_weight=0.5)),
    "discriminative only": replace(TWO_PASSES, discriminative_only=True),
    "misread words": replace(TWO_PASSES, response_noise=0.3),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_two_passes_have_the_gradient_of_one_graph_with_dropout_on(backbone, pairs, name):
    settings = SETTINGS[name]
    report, found = gradient(backbone, pairs, settings)
    reference, wanted = gradient(backbone, pairs, replace(settings, two_pass=False))
    assert report.packs > 3, "with one pack this test would prove nothing"
    assert report.loss == pytest.approx(reference.loss, rel=1e-6)
    assert distance(found, wanted) < 1e-5


def test_hard_negatives_have_the_gradient_of_one_graph(backbone, folder):
    pairs = mixed_pairs(backbone, folder, negatives=True)
    report, found = gradient(backbone, pairs, TWO_PASSES)
    _, wanted = gradient(backbone, pairs, replace(TWO_PASSES, two_pass=False))
    assert distance(found, wanted) < 1e-5
    without, other = gradient(backbone, mixed_pairs(backbone, folder), TWO_PASSES)
    assert report.disc > without.disc and report.gen == pytest.approx(without.gen, rel=0.2)
    assert distance(found, other) > 1e-3


@pytest.mark.parametrize("name", ["default", "released", "all options"])
def test_scores_of_a_few_rows_at_a_time_give_the_same_gradient(pairs, name, monkeypatch):
    backbone = small_student()
    reference, wanted = gradient(backbone, pairs, SETTINGS[name])
    monkeypatch.setattr("umer1_core.sft.step.contrast._ROWS", 4)
    report, found = gradient(backbone, pairs, SETTINGS[name])
    assert report.loss == pytest.approx(reference.loss, rel=1e-5) and report.hit_gen == reference.hit_gen
    assert distance(found, wanted) < 1e-5


def test_without_the_random_state_the_gradient_is_another_one(backbone, pairs, monkeypatch):
    _, wanted = gradient(backbone, pairs, replace(TWO_PASSES, two_pass=False))
    monkeypatch.setattr(RandomState, "restore", lambda self: None)
    _, found = gradient(backbone, pairs, TWO_PASSES)
    assert distance(found, wanted) > 1e-2


def test_the_number_of_packs_changes_neither_loss_nor_gradient(pairs):
    backbone = small_student()
    few, wanted = gradient(backbone, pairs, replace(TWO_PASSES, pack_tokens=100_000))
    many, found = gradient(backbone, pairs, replace(TWO_PASSES, pack_tokens=120))
    padded, other = gradient(backbone, pairs, replace(TWO_PASSES, layout="padded"))
    assert few.packs == 1 and many.packs > 10 and padded.processed_tokens > padded.real_tokens == few.real_tokens
    assert few.loss == pytest.approx(many.loss, rel=1e-5) == pytest.approx(padded.loss, rel=1e-5)
    assert distance(found, wanted) < 1e-4 and distance(other, wanted) < 1e-4


def test_the_step_equals_the_librarys_own_forward_and_loss(pairs):
    """An independent reference: padded batch, all logits, `labels=` of the library."""
    backbone = small_student()
    pairs = [p for p in pairs if p.pair_id.startswith("picture")]
    report, found = gradient(backbone, pairs, TWO_PASSES)
    backbone.model.zero_grad(set_to_none=True)
    rows = [p.query for p in pairs] + [p.target for p in pairs]
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
    hidden = output.hidden_states[-1]
    keys = torch.tensor([[i, hash(p.target_key) % 1_000_003] for i, p in enumerate(pairs)])
    terms = []
    for token, response in ((backbone.ids.disc, False), (backbone.ids.gen, True)):
        vectors = []
        for line, row in enumerate(rows):
            start, end = (len(row.prompt), len(row)) if response else (0, len(row.prompt))
            place = max(i for i in range(start, end) if batch.ids[line, i] == token)
            vectors.append(torch.nn.functional.normalize(hidden[line, place], dim=-1))
        queries, targets = torch.stack(vectors).split(len(pairs))
        terms.append(contrastive(queries, targets, TEMPERATURE, equal_entries(keys[:, 0], keys[:, 1])))
    (terms[0] + terms[1] + output.loss).backward()
    wanted = torch.cat([p.grad.flatten() for p in backbone.model.parameters()])
    assert (report.disc, report.gen) == (
        pytest.approx(terms[0].item(), rel=1e-4),
        pytest.approx(terms[1].item(), rel=1e-4),
    )
    assert report.token == pytest.approx(output.loss.item(), rel=1e-4)
    assert report.tokens == int((batch.labels != IGNORED).sum())
    assert distance(found, wanted) < 1e-4


def test_features_of_a_frozen_tower_are_reused_without_a_difference(pairs):
    backbone = small_student()
    _, wanted = gradient(backbone, pairs, TWO_PASSES)
    _, found = gradient(backbone, pairs, TWO_PASSES, reuse=True)
    names = [n for n, p in backbone.model.named_parameters() for _ in range(p.numel())]
    trained = torch.tensor(["visual" not in n or "merger" in n for n in names])
    assert distance(found[trained], wanted[trained]) < 1e-5
    assert found[~trained].norm() == 0 < wanted[~trained].norm()


def test_a_learned_temperature_gets_its_gradient(pairs):
    backbone = small_student()
    slopes = []
    for two_pass in (True, False):
        log = torch.tensor(-3.0, requires_grad=True)
        gradient(backbone, pairs, replace(TWO_PASSES, two_pass=two_pass), log.exp())
        slopes.append(log.grad.item())
    step = 1e-2
    losses = [gradient(backbone, pairs, TWO_PASSES, torch.tensor(-3.0 + s).exp())[0] for s in (step, -step)]
    slope = sum(sign * (report.disc + report.gen) for sign, report in zip((1, -1), losses, strict=True)) / (2 * step)
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-4) == pytest.approx(slope, rel=1e-2)


def test_a_step_that_fits_into_a_pack_is_run_once_and_of_others_all_packs_but_one_twice(pairs):
    backbone = small_student()
    module = SFTModule(backbone)
    calls = []
    module.register_forward_hook(lambda *args: calls.append(1))
    parallel = OneProcess(join_ranks(), module, lambda module: [])
    for settings, again in ((StepSettings(), 0), (TWO_PASSES, 1)):
        calls.clear()
        report = sft_step(parallel, backbone.ids, pairs, settings, TEMPERATURE)
        assert len(calls) == report.packs + again * (report.packs - 1)


def test_a_step_without_pairs_is_not_usable_and_one_pair_is(pairs):
    backbone = small_student()
    empty, none = gradient(backbone, [], TWO_PASSES)
    assert not empty.has_gradient and none.norm() == 0
    single, _ = gradient(backbone, pairs[:1], TWO_PASSES)
    assert single.has_gradient and single.disc == 0 and single.hit_disc == 1


def test_a_loss_that_is_no_number_is_told_and_stops_before_the_second_pass(backbone, pairs):
    with torch.no_grad():
        backbone.model.model.language_model.norm.weight.fill_(float("nan"))
    report, found = gradient(backbone, pairs, TWO_PASSES)
    assert not report.has_gradient and report.pairs == len(pairs) and found.norm() == 0


def test_bf16_as_on_a_gpu_stays_close_to_fp32(pairs):
    exact, full = gradient(small_student(), pairs, TWO_PASSES)
    rounded, half = gradient(replace(small_student(), dtype=torch.bfloat16), pairs, TWO_PASSES)
    assert exact.loss != rounded.loss, "nothing was computed in bf16, so this test would prove nothing"
    assert rounded.loss == pytest.approx(exact.loss, rel=0.02)
    assert torch.cosine_similarity(full, half, dim=0) > 0.98


def test_recomputing_activations_as_on_a_gpu_gives_the_same_gradient(backbone, pairs):
    _, plain = gradient(backbone, pairs, TWO_PASSES)
    backbone.model.gradient_checkpointing_enable()
    _, recomputed = gradient(backbone, pairs, TWO_PASSES)
    assert distance(recomputed, plain) < 1e-5


def test_an_embedding_token_lost_on_the_way_is_never_read_elsewhere(pairs):
    backbone = small_student()
    row = pairs[0].query
    lost = replace(row, response=tuple(backbone.ids.end_of_turn if t == backbone.ids.gen else t for t in row.response))
    with pytest.raises(Fatal, match="gen_emb"):
        gradient(backbone, [replace(pairs[0], query=lost)], TWO_PASSES)


def test_misreading_changes_words_of_the_response_only(pairs):
    backbone = small_student()
    batch = collate([p.query for p in pairs], backbone.ids, backbone.device)
    kept = (backbone.ids.gen, backbone.ids.end_of_turn)
    noisy = misread(batch.ids, batch.labels, 0.5, kept)
    changed = noisy != batch.ids
    assert changed.any() and not changed[batch.labels == IGNORED].any()
    assert not any(int(token) in kept for token in batch.ids[changed])
    assert torch.equal(misread(batch.ids, batch.labels, 0.0, kept), batch.ids)


def test_words_that_most_responses_hold_are_their_form():
    responses = [(1, 2, 7, 3), (1, 2, 8, 3), (1, 9, 9, 4), (1, 5, 6, 4)]
    assert shared_words(responses) == (1, 2, 3, 4)
    assert shared_words(responses, share=0.75) == (1,)
    assert shared_words([]) == ()
