"""Rollouts that share their prompt in one line: exactly the rollouts alone, through the library's own pass.

The reference sees one sequence at a time, with positions token by token, the library's masks and sdpa, and a plain
log-softmax.
"""

from dataclasses import replace

import pytest
import torch

from tests.backbone.families import KINDS, PROMPT, fresh, mixed_rows
from tests.backbone.mrope import original_positions
from tests.backbone.rollouts import alone, apart, groups_of, made, run, scored
from tests.student import clip
from umer1_core.backbone import attention
from umer1_core.backbone.attention import segment_mask
from umer1_core.backbone.collate import Encoder, Row
from umer1_core.backbone.model import TokenIds
from umer1_core.backbone.shared_prefix import Group, blank_media, collate_groups, model_inputs
from umer1_core.errors import BadInput

CPU = torch.device("cpu")
IDS = TokenIds(gen=1, disc=2, image=90, video=91, end_of_turn=92, pad=3)


@pytest.fixture(scope="module", params=KINDS)
def family(request):
    return scored(request.param)


@pytest.fixture(scope="module")
def family_groups(family, tmp_path_factory):
    return groups_of(family, mixed_rows(family, tmp_path_factory.mktemp("media")))


@pytest.fixture(scope="module")
def family_alone(family, family_groups):
    return alone(family.model.config.model_type, family_groups)


@pytest.fixture(scope="module")
def backbone():
    return scored("qwen2_vl")


@pytest.fixture(scope="module")
def groups(backbone, tmp_path_factory):
    return groups_of(backbone, mixed_rows(backbone, tmp_path_factory.mktemp("media")))


@pytest.fixture(scope="module")
def wanted(groups):
    return alone("qwen2_vl", groups)


# -- the same as alone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [True, False])
def test_groups_in_one_line_are_their_rollouts_alone(family, family_groups, family_alone, share):
    batch = collate_groups(family_groups, family.ids, family.device, share)
    assert apart(made(family, *run(family, batch)), family_alone) < 1e-5
    assert any("visual.blocks.0" in name for name in family_alone.gradients), "vision had no gradient"
    assert (batch.processed < 0.6 * batch.real) if share else (batch.processed == batch.real)


@pytest.mark.parametrize("size", range(1, 9))
def test_a_group_of_any_size_is_its_rollouts_alone(backbone, groups, size):
    some = [Group(groups[1].prompt, groups[1].completions[:size])]
    batch = collate_groups(some, backbone.ids, backbone.device)
    assert apart(made(backbone, *run(backbone, batch)), alone("qwen2_vl", some)) < 1e-5


def test_gradient_checkpointing_changes_no_gradient(groups, wanted):
    saving = scored("qwen2_vl")
    saving.model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    calls = []
    handle = saving.model.model.language_model.layers[0].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    found = made(saving, *run(saving, collate_groups(groups, saving.ids, saving.device)))
    handle.remove()
    assert apart(found, wanted) < 1e-5 and len(calls) == 2, "nothing was computed again, so this says nothing"


def test_entropy_is_that_of_the_same_place_without_sharing(backbone, groups):
    found = []
    for share in (True, False):
        batch = collate_groups(groups, backbone.ids, backbone.device, share)
        with torch.no_grad():
            output = backbone.model(
                **model_inputs(backbone, batch), shift_labels=batch.shift_labels, fused_lm_head=True
            )
        found.append(torch.cat([output.entropy[0, start:end] for start, end in batch.predicting.tolist()]))
    assert (found[0] - found[1]).abs().max() < 1e-5 and found[0].std() > 1e-3


def test_attention_dropout_is_drawn_anew_and_replayed_by_the_seed(groups):
    dropping = scored("qwen2_vl", dropout=0.3)
    dropping.model.train()
    batch = collate_groups(groups, dropping.ids, dropping.device)
    found = []
    with torch.no_grad():
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            found.append(run(dropping, batch)[0])
    assert torch.equal(found[0], found[1]) and (found[0] - found[2]).abs().max() > 1e-3


# -- negative controls -----------------------------------------------------------------------------------------------


def test_positions_that_run_on_from_segment_to_segment_are_noticed(backbone, groups, wanted):
    batch = collate_groups(groups, backbone.ids, backbone.device)
    running = batch.positions.clone()
    for start, end in batch.written.tolist():
        running[1:, :, start:end] += start - int(batch.written[0, 0])
    with torch.no_grad():
        found = run(backbone, replace(batch, positions=running))[0]
    first = len(groups[0].completions[0])
    assert (found - wanted.log_probs)[:first].abs().max() < 1e-4
    assert (found - wanted.log_probs)[first:].abs().max() > 1e-2


def test_segments_that_see_each_other_are_noticed(backbone, groups, wanted):
    batch = collate_groups(groups, backbone.ids, backbone.device)
    one_text = torch.cat([torch.arange(batch.processed).view(1, 1, -1), batch.positions[1:]])
    with torch.no_grad():
        found = run(backbone, replace(batch, positions=one_text), shared_prefix=None)[0]
    first = len(groups[0].completions[0])
    assert (found - wanted.log_probs)[:first].abs().max() < 1e-4
    assert (found - wanted.log_probs)[first:].abs().max() > 1e-2


@pytest.mark.parametrize("size", [1, 3])
def test_a_line_without_its_layout_is_refused(backbone, groups, size):
    some = [Group(groups[0].prompt, groups[0].completions[:size])]
    batch = collate_groups(some, backbone.ids, backbone.device)
    with pytest.raises(ValueError, match="would see each other"):
        run(backbone, batch, shared_prefix=None)


def test_another_attention_is_refused(groups):
    library = fresh(attention="sdpa")
    with pytest.raises(ValueError, match="umer1_flash_segments"):
        model_inputs(library, collate_groups(groups, library.ids, library.device))


# -- media -----------------------------------------------------------------------------------------------------------


def test_the_order_of_a_clips_frames_matters(family, tmp_path):
    encoder = Encoder(family, 1024)
    found = []
    for reverse in (False, True):
        row = encoder.encode(PROMPT, [clip(tmp_path, "red", reverse)])
        batch = collate_groups(groups_of(family, [row], (4,)), family.ids, family.device)
        with torch.no_grad():
            found.append(run(family, batch)[0])
    assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.mark.parametrize("share", [True, False])
def test_media_go_through_the_tower_once_a_group_and_not_once_a_rollout(backbone, groups, share):
    counted = []
    handle = backbone.model.model.visual.register_forward_pre_hook(lambda _, args: counted.append(len(args[0])))
    with torch.no_grad():
        run(backbone, collate_groups(groups, backbone.ids, backbone.device, share))
    handle.remove()
    shown = [(1 if share else len(g.completions)) * sum(len(p.patches) for p in g.prompt.pixels) for g in groups]
    assert sum(counted) == sum(shown) > 0


def test_blanks_touch_the_parameters_of_vision_and_change_nothing(family, family_groups):
    text = [group for group in family_groups if not group.prompt.pixels]
    calls = []
    handle = family.model.model.visual.register_forward_pre_hook(lambda *_: calls.append(1))
    plain = made(family, *run(family, collate_groups(text, family.ids, family.device)))
    assert not calls
    blanks = blank_media(family)
    kept = made(family, *run(family, collate_groups(text, family.ids, family.device, blanks=blanks)))
    handle.remove()
    assert len(calls) == 2 and torch.allclose(plain.log_probs, kept.log_probs, atol=1e-5)
    assert all(torch.allclose(kept.gradients[name], plain.gradients[name], atol=1e-3) for name in plain.gradients)
    vision = {name for name, _ in family.model.named_parameters() if "visual" in name}
    touched = kept.gradients.keys() - plain.gradients.keys()
    assert touched and touched <= vision and not any(kept.gradients[name].any() for name in touched)


def test_only_the_missing_kind_is_shown_as_a_blank(backbone, groups):
    blanks = blank_media(backbone)
    batch = collate_groups(groups[:1], backbone.ids, backbone.device, blanks=blanks)
    assert [p.kind for p in batch.pixels] == ["video", "image"]
    whole = collate_groups(groups, backbone.ids, backbone.device, blanks=blanks)
    assert whole.processed == sum(group.tokens() for group in groups)


@pytest.mark.parametrize("with_blanks", [False, True])
def test_a_line_without_groups_runs(backbone, with_blanks):
    batch = collate_groups([], backbone.ids, backbone.device, blanks=blank_media(backbone) if with_blanks else ())
    with torch.no_grad():
        output = backbone.model(**model_inputs(backbone, batch), shift_labels=batch.shift_labels, fused_lm_head=True)
    assert batch.real == 0 and batch.written.shape == batch.user.shape == (0, 2)
    assert batch.processed == (2 if with_blanks else 1) and torch.isfinite(output.log_probs).all()


# -- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [True, False])
def test_spans_and_labels_are_those_of_the_rollouts(backbone, groups, share):
    batch = collate_groups(groups, backbone.ids, backbone.device, share)
    ids, labels = batch.ids.flatten(), batch.shift_labels.flatten()
    completions = [ids for group in groups for ids in group.completions]
    assert len(batch.written) == len(batch.predicting) == len(completions)
    for completion, written, places in zip(completions, batch.written, batch.predicting, strict=True):
        assert tuple(ids[slice(*written)].tolist()) == tuple(labels[slice(*places)].tolist()) == completion
    assert int((labels >= 0).sum()) == sum(map(len, completions))
    for group, user in zip(groups, batch.user.tolist(), strict=True):
        assert tuple(ids[slice(*user)].tolist()) == (group.prompt.prompt[:-1] if share else group.prompt.prompt)
    assert batch.processed == sum(group.tokens(share) for group in groups)


def test_positions_of_a_rollout_are_those_of_its_sequence_alone(family, family_groups):
    batch = collate_groups(family_groups, family.ids, family.device)
    spans = iter(batch.written.tolist())
    for group, user in zip(family_groups, batch.user.tolist(), strict=True):
        for written in group.completions:
            start, end = next(spans)
            own = original_positions(family, [*group.prompt.prompt, *written], group.prompt.pixels)
            line = torch.cat([batch.positions[1:, 0, slice(*user)], batch.positions[1:, 0, start - 1 : end]], dim=1)
            assert torch.equal(line, own)


def test_a_completion_goes_on_from_the_greatest_position_even_where_it_is_not_the_last():
    prompt = Row((5, 6), (), (), torch.tensor([[9, 1], [0, 1], [0, 1]]))
    batch = collate_groups([Group(prompt, ((7, 8),))], IDS, CPU)
    assert batch.positions[1:, 0].tolist() == [[9, 1, 10, 11], [0, 1, 10, 11], [0, 1, 10, 11]]


@pytest.mark.parametrize("completions", [(), ((),), ((7,), ())])
def test_a_group_without_something_to_score_is_refused(completions):
    with pytest.raises(ValueError, match="at least one"):
        Group(Row((5, 6), (), (), torch.zeros(3, 2)), completions)


def test_a_prompt_with_a_response_is_refused():
    with pytest.raises(ValueError, match="no response"):
        Group(Row((5,), (6,), (), torch.zeros(3, 2)), ((7,),))


def test_a_completion_that_poses_as_media_is_rejected(backbone, groups):
    posing = Group(groups[0].prompt, ((backbone.ids.image, backbone.ids.gen),))
    with pytest.raises(BadInput) as caught:
        collate_groups([posing], backbone.ids, backbone.device)
    assert caught.value.reason == "placeholder_in_completion"


def test_no_mask_of_the_line_is_built(backbone, groups, monkeypatch):
    built = []

    def spy(**arguments):
        built.append(segment_mask(**arguments))
        return built[-1]

    monkeypatch.setitem(attention.AttentionMaskInterface._global_mapping, attention.ATTENTION, spy)
    with torch.no_grad():
        run(backbone, collate_groups(groups, backbone.ids, backbone.device))
    assert [mask.numel() for mask in built] == [0]
