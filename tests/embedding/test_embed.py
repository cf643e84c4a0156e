"""Embedding with a real student: untrained, and one that learned a single answer by heart."""

import pytest
import torch

from schemas.training import Training
from tests.student import QUERY, cold_start_store, picture, small_pairs, small_student
from umer1_core.backbone.collate import Encoder, collate
from umer1_core.backbone.forward import hidden_states
from umer1_core.backbone.model import load_backbone
from umer1_core.backbone.positions import read_embeddings
from umer1_core.embedding.embed import VectorSettings, embed, embed_sides
from umer1_core.pairs import Media, Side
from umer1_core.sft.train import train
from umer1_core.template import GEN_EMB, training_prompt

PLAIN = Training(
    model="miniature",
    steps=60,
    batch_pairs=6,
    warmup_steps=5,
    learning_rate=5e-3,
    optimizer="muon",
    schedule="linear",
    max_tokens=512,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("embedding")


@pytest.fixture(scope="module")
def trained(folder):
    """A student that has learned to end its turn with `<gen_emb>`."""
    return train(cold_start_store(folder, small_pairs(folder)), PLAIN, str(folder / "sft")).model


@pytest.fixture(scope="module")
def sides(folder):
    pairs = small_pairs(folder)
    return [pairs[0].query, pairs[5].target, pairs[7].query, pairs[2].target]


def test_both_vectors_come_from_the_run_that_wrote_the_text(trained, sides):
    """What is read while generating equals one forward pass over prompt and text."""
    backbone = load_backbone(trained)
    encoder = Encoder(backbone, 512)
    for side, made in zip(sides, embed_sides(backbone, encoder, sides, max_new_tokens=64), strict=True):
        assert made.gen_status == made.disc_status == "ok", made.text
        assert made.text.startswith("<think>") and made.text.endswith(GEN_EMB)
        row = encoder.encode(training_prompt(side.text), side.media, made.text)
        batch = collate([row], backbone.ids, backbone.device)
        with torch.inference_mode():
            hidden = hidden_states(backbone, batch)
        gen = read_embeddings(hidden, batch.ids, backbone.ids.gen, batch.assistant).vectors[0]
        disc = read_embeddings(hidden, batch.ids, backbone.ids.disc, batch.user).vectors[0]
        assert (gen - made.gen).abs().max() < 1e-4 and (disc - made.disc).abs().max() < 1e-4


def test_company_in_the_batch_changes_nothing(trained, sides):
    backbone = load_backbone(trained)
    encoder = Encoder(backbone, 512)
    together = embed_sides(backbone, encoder, sides, max_new_tokens=64)
    for side, made in zip(sides, together, strict=True):
        (alone,) = embed_sides(backbone, encoder, [side], max_new_tokens=64)
        assert alone.text == made.text
        assert (alone.gen - made.gen).abs().max() < 1e-4 and (alone.disc - made.disc).abs().max() < 1e-4


def test_a_text_that_is_cut_has_no_generative_embedding_and_says_so(sides):
    backbone = small_student()
    made = embed_sides(backbone, Encoder(backbone, 512), sides, max_new_tokens=3)
    assert {item.gen_status for item in made} <= {"truncated", "no_token", "ok"}
    cut = [item for item in made if item.gen_status == "truncated"]
    assert cut and all(item.gen.abs().sum() == 0 and item.disc_status == "ok" and item.steps == 3 for item in cut)


def test_discriminative_embeddings_need_no_generation(sides):
    backbone = small_student()
    encoder = Encoder(backbone, 512)
    quick, full = (embed_sides(backbone, encoder, sides, mode, 4) for mode in ("disc", "both"))
    for one, other in zip(quick, full, strict=True):
        assert torch.allclose(one.disc, other.disc, atol=1e-6)
        assert one.steps == 0 and one.gen_status == "no_token"


def test_a_side_that_cannot_be_read_is_marked_and_the_others_are_not_touched(sides):
    backbone = small_student()
    encoder = Encoder(backbone, 512)
    broken = Side(QUERY, (Media("image", "/nowhere.png", content_hash="none"),))
    made = embed_sides(backbone, encoder, [sides[0], broken, sides[1]], "disc")
    assert [item.disc_status for item in made] == ["ok", "bad_input", "ok"]
    assert made[1].disc.abs().sum() == 0
    assert embed_sides(backbone, encoder, [broken])[0].gen_status == "bad_input"


def test_a_changed_picture_changes_both_embeddings(trained, folder):
    backbone = load_backbone(trained)
    pictures = [Side(QUERY, (picture(folder, colour),)) for colour in ("red", "blue")]
    red, blue = embed_sides(backbone, Encoder(backbone, 512), pictures, max_new_tokens=64)
    assert (red.disc - blue.disc).abs().max() > 1e-3 and (red.gen - blue.gen).abs().max() > 1e-3


def test_equal_sides_are_embedded_once_and_a_second_call_embeds_nothing(trained, sides, folder):
    seen: list[tuple[int, int]] = []
    settings = VectorSettings(max_new_tokens=64, batch=2)
    for _ in range(2):
        vectors = embed(trained, [*sides, sides[0]], str(folder / "out"), settings, lambda *counts: seen.append(counts))
        assert set(vectors.rows) == {side.key for side in sides} and vectors.gen.shape == vectors.disc.shape
    assert seen == [(2, 4), (4, 4)]
