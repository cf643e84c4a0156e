"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: our forward pass is the library's own, packed or with a reused tower."""

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache
from transformers.video_utils import VideoMetadata

from tests.backbone.families import (
    KINDS,
    PROMPT,
    embeddings,
    fresh,
    furthest,
    gradients,
    library_states,
    mixed_rows,
    separate,
)
from tests.student import clip, picture
from umer1_core.backbone.collate import Encoder, Row, collate
from umer1_core.backbone.family import family_of
from umer1_core.backbone.forward import hidden_states, step_states
from umer1_core.backbone.model import freeze_vision, use_attention
from umer1_core.backbone.vision import encode_tower, tower_is_frozen
from umer1_core.errors import Fatal
from umer1_core.media import open_image, read_frames, read_image
from umer1_core.template import DISC_EMB, GEN_EMB


@pytest.fixture(scope="module", params=KINDS)
def backbone(request):
    return fresh(request.param)


@pytest.fixture(scope="module")
def rows(backbone, tmp_path_factory):
    return mixed_rows(backbone, tmp_path_factory.mktemp("media"))


def test_every_kind_of_row_in_one_packed_line_has_the_states_of_the_librarys_own_pass(backbone, rows):
    with torch.no_grad():
        packed = hidden_states(backbone, collate(rows, backbone.ids, backbone.device, "packed"))[0]
        use_attention(backbone.model, "sdpa")
        try:
            own = torch.cat([library_states(backbone, row) for row in rows])
        finally:
            use_attention(backbone.model, "umer1_flash_segments")
    assert packed.shape == own.shape and (packed - own).abs().max() < 1e-5


def test_packed_gradients_are_those_of_separate_sequences(backbone, rows):
    packed = gradients(backbone, embeddings(backbone, rows, "packed"))
    assert furthest(packed, gradients(backbone, separate(backbone, rows))) < 1e-5
    assert any("visual.blocks.0" in name for name in packed), "vision had no gradient, so this says nothing about it"


def test_a_reused_tower_changes_no_embedding_and_no_gradient(backbone, rows):
    frozen = fresh(backbone.model.config.model_type)
    freeze_vision(frozen)
    assert tower_is_frozen(frozen) and not tower_is_frozen(backbone)
    direct = embeddings(frozen, rows, "packed")
    tower = encode_tower(frozen, [p for row in rows for p in row.pixels])
    assert not any(states.requires_grad for states in tower.states)
    reused = embeddings(frozen, rows, "packed", tower=tower)
    assert (direct - reused).abs().max() < 1e-6
    wanted, found = gradients(frozen, direct), gradients(frozen, reused)
    assert furthest(found, wanted) < 1e-5
    mergers = [name for name in wanted if "merger" in name]
    assert len(mergers) == sum(len(list(m.parameters())) for m in frozen.family.mergers(frozen.model.model.visual)), (
        "a merger had no gradient"
    )


def test_reused_features_are_what_is_seen(backbone, rows):
    """Negative control: the tower of other pictures gives other embeddings."""
    with torch.no_grad():
        pixels = [p for row in rows for p in row.pixels]
        other = [type(p)(p.kind, p.patches.flip(0), p.grid, p.frames) for p in pixels]
        right = embeddings(backbone, rows, "packed", tower=encode_tower(backbone, pixels))
        wrong = embeddings(backbone, rows, "packed", tower=encode_tower(backbone, other))
    assert (right - wrong).abs().max() > 1e-3


@pytest.mark.parametrize("reuse", [False, True])
def test_text_alone_can_touch_the_parameters_of_vision_without_a_change(backbone, rows, reuse):
    text = [row for row in rows if not row.pixels]
    frozen = fresh(backbone.model.config.model_type)
    freeze_vision(frozen)
    tower = encode_tower(frozen, [], keep_vision=True) if reuse else None
    plain = embeddings(frozen, text, "packed")
    kept = embeddings(frozen, text, "packed", tower=tower, keep_vision=True)
    assert torch.equal(plain, kept)
    without, found = gradients(frozen, plain), gradients(frozen, kept)
    touched = found.keys() - without.keys()
    assert all(torch.equal(found[name], without[name]) for name in without)
    assert touched == {name for name, p in frozen.model.named_parameters() if "merger" in name and p.requires_grad}
    assert all(not found[name].any() for name in touched)


def test_no_media_and_nothing_kept_runs_no_tower(backbone):
    assert encode_tower(backbone, []) is None


@pytest.mark.parametrize("kind", ["image", "video", "odd video"])
def test_rows_are_what_the_librarys_processor_makes(backbone, tmp_path, kind):
    processor = backbone.processor
    media = picture(tmp_path, "red") if kind == "image" else clip(tmp_path, "red")
    if kind == "odd video":
        kind, media = "video", replace(media, frames=media.frames[:7], content_hash="")
    row = Encoder(backbone, 1024).encode(PROMPT, [media])
    message = {"role": "user", "content": [{"type": kind}, {"type": "text", "text": PROMPT}]}
    text = processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    if kind == "image":
        inputs = processor(text=[text], images=[open_image(read_image(media))], return_tensors="pt")
    else:
        frames = [open_image(frame) for frame in read_frames(media)]
        times = VideoMetadata(len(frames), fps=2, frames_indices=list(range(len(frames))))
        inputs = processor(
            text=[text], videos=[frames], video_metadata=[times], do_sample_frames=False, return_tensors="pt"
        )
    name = "pixel_values" if kind == "image" else "pixel_values_videos"
    assert inputs["input_ids"][0].tolist() == list(row.prompt)
    assert torch.allclose(inputs[name], row.pixels[0].patches, atol=1e-5)


def test_states_read_step_by_step_equal_one_forward_pass(backbone, rows):
    """Prefill the prompts, then feed the response token by token, left-padded and of several kinds."""
    with torch.inference_mode():
        prompts = [Row(row.prompt, (), row.pixels, row.positions[:, : len(row.prompt)]) for row in rows]
        start = collate(prompts, backbone.ids, backbone.device, "left")
        cache = DynamicCache(config=backbone.model.config.text_config)
        hidden_states(backbone, start, cache)
        positions, mask = start.positions.amax((0, 2)) + 1, start.mask
        states = []
        for place in range(len(rows[0].response)):
            tokens = torch.tensor([row.response[place] for row in rows])
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            states.append(step_states(backbone, tokens, mask, positions, cache))
            positions = positions + 1
        full = hidden_states(backbone, collate(rows, backbone.ids, backbone.device, "left"))
    assert (torch.stack(states, dim=1) - full[:, -len(states) :]).abs().max() < 1e-4


def test_the_decoder_layers_are_those_that_the_family_names(backbone):
    layers = backbone.model.model.language_model.layers
    assert {type(layer) for layer in layers} == {backbone.family.layer_class}


def test_embedding_tokens_start_from_the_rows_that_the_released_code_copies():
    assert family_of("qwen2_vl", "").copied_from == {
        GEN_EMB: "<|object_ref_end|>",
        DISC_EMB: "<|object_ref_start|>",
    }
    assert family_of("qwen2_5_vl", "").copied_from == {GEN_EMB: "</tool_call>", DISC_EMB: "<tool_call>"}


def test_another_family_is_a_fatal_error_that_names_the_three():
    with pytest.raises(Fatal, match=r"org/m is a llama model.*Qwen2\.5-VL"):
        family_of("llama", "org/m")
