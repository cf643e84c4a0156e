"""Positions of media and of what follows them: the encoder's are those of the original rule, in every family.

The library (5.19) goes on behind a medium by its height and width alone. For pictures that is the same; behind a clip
whose times run further, its text stands inside the clip, where neither the checkpoints nor vLLM have it.
"""

from dataclasses import replace

import pytest
import torch
from blake3 import blake3

from tests.backbone.families import KINDS, PROMPT, RESPONSE, fresh, mixed_rows
from tests.backbone.mrope import original_positions
from tests.student import clip, picture
from umer1_core.backbone.collate import Encoder, collate
from umer1_core.backbone.pixels import Pixels


@pytest.fixture(scope="module", params=KINDS)
def backbone(request):
    return fresh(request.param)


def of_frames(media, count):
    """The clip's first frames, shown again where it has fewer."""
    frames = (media.frames * count)[:count]
    return replace(media, frames=frames, content_hash=blake3(str(frames).encode()).hexdigest())


def original(backbone, row):
    return original_positions(backbone, [*row.prompt, *row.response], row.pixels)


def librarys(backbone, row):
    batch = collate([row], backbone.ids, backbone.device)
    grids = {"image_grid_thw": batch.grids("image"), "video_grid_thw": batch.grids("video")}
    return backbone.model.model.get_rope_index(batch.ids, mm_token_type_ids=batch.media_types, **grids)[0][:, 0]


def test_every_kind_of_row_has_the_positions_of_the_original_rule(backbone, tmp_path):
    for row in mixed_rows(backbone, tmp_path):
        assert torch.equal(row.positions, original(backbone, row))


def test_the_library_has_the_same_for_pictures_text_and_clips_that_are_wider_than_long(backbone, tmp_path):
    media = [
        [],
        [picture(tmp_path, "red")],
        [picture(tmp_path, "black", size=(192, 128)), picture(tmp_path, "red", "left")],
        [of_frames(clip(tmp_path, "red"), 2), picture(tmp_path, "blue")],
    ]
    for items in media:
        row = Encoder(backbone, 1024).encode(PROMPT, items, RESPONSE)
        assert torch.equal(librarys(backbone, row), original(backbone, row))


@pytest.mark.parametrize("frames", [8, 20])
def test_behind_a_clip_that_is_longer_than_wide_the_librarys_text_stands_inside_it(backbone, tmp_path, frames):
    """Qwen3-VL has no such clip: each of its grids is one step of time."""
    row = Encoder(backbone, 1024).encode(PROMPT, [of_frames(clip(tmp_path, "red"), frames)], RESPONSE)
    end = len(row.prompt) - row.prompt[::-1].index(backbone.ids.video)
    theirs = librarys(backbone, row)
    assert torch.equal(row.positions, original(backbone, row))
    assert torch.equal(theirs[:, :end], row.positions[:, :end])
    assert row.positions[:, end].tolist() == [int(row.positions[:, :end].max()) + 1] * 3
    if backbone.model.config.model_type == "qwen3_vl":
        assert torch.equal(theirs, row.positions)
    else:
        assert theirs[0, end] <= theirs[:, :end].max()


def test_a_response_goes_on_where_generation_does(backbone, tmp_path):
    """Behind the greatest position of its prompt, though the clip may be longer than the text that follows it."""
    row = Encoder(backbone, 2048).encode("<disc_emb>", [of_frames(clip(tmp_path, "red"), 120)], RESPONSE)
    border = len(row.prompt)
    prompt = Encoder(backbone, 2048).encode("<disc_emb>", [of_frames(clip(tmp_path, "red"), 120)])
    assert torch.equal(prompt.positions, row.positions[:, :border])
    after = prompt.positions.max() + 1 + torch.arange(len(row.response))
    assert torch.equal(row.positions[:, border:], after.expand(3, -1))
    library = librarys(backbone, row)
    runs_on = bool(library[0, border] == library[:, :border].max() + 1)
    assert runs_on == (backbone.model.config.model_type == "qwen3_vl"), "the clip is too short to tell"


def test_a_grid_and_what_follows_it_by_hand():
    """Qwen2-VL: two tokens, a clip of three steps of one by two, two tokens."""
    backbone = fresh("qwen2_vl")
    clip_id = backbone.ids.video
    grid = Pixels("video", torch.zeros(24, 1), (3, 2, 4), 6)
    found = original_positions(backbone, [100, 101, *[clip_id] * 6, 102, 103], [grid])
    assert found.tolist() == [
        [0, 1, 2, 2, 3, 3, 4, 4, 5, 6],
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 3, 2, 3, 2, 3, 5, 6],
    ]
