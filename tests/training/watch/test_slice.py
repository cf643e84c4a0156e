"""hit@1 on a slice, against a loop over single sequences."""

import itertools

import pytest
import torch

from tests.student import cold_start_row, small_pairs, small_student
from umer1_core.backbone.collate import Encoder, collate
from umer1_core.backbone.forward import hidden_states
from umer1_core.backbone.positions import read_embeddings
from umer1_core.training.watch.slice import evaluate_slice, reasoned


@pytest.fixture(scope="module")
def backbone():
    return small_student()


@pytest.fixture
def encoder(backbone):
    return Encoder(backbone, 1024)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    pairs = small_pairs(tmp_path_factory.mktemp("media"))
    modalities = itertools.cycle(["image", "visdoc"])
    return [cold_start_row(pair) | {"modality": next(modalities)} for pair in pairs]


@pytest.fixture
def writes_the_token_at_once(backbone, monkeypatch):
    """An untrained student writes anything but `<gen_emb>`: its words are put in its mouth."""
    said = itertools.cycle([backbone.ids.gen, backbone.ids.end_of_turn])
    monkeypatch.setattr(
        "umer1_core.backbone.reason.next_tokens",
        lambda _, states: torch.full((len(states),), next(said)),
    )


def alone(backbone, encoder, row) -> dict[str, torch.Tensor]:
    """Both embeddings of one sequence whose response is the token alone."""
    batch = collate([encoder.encode(row.prompt, row.media, "<gen_emb>")], backbone.ids, backbone.device)
    with torch.inference_mode():
        hidden = hidden_states(backbone, batch)
    return {
        "gen": read_embeddings(hidden, batch.ids, backbone.ids.gen, batch.assistant).vectors[0],
        "disc": read_embeddings(hidden, batch.ids, backbone.ids.disc, batch.user).vectors[0],
    }


def hits(backbone, encoder, records, name) -> list[bool]:
    sides = reasoned(records)
    found = [alone(backbone, encoder, side)[name] for side in sides]
    queries, targets = found[::2], found[1::2]
    return [int(torch.stack([q @ t for t in targets]).argmax()) == i for i, q in enumerate(queries)]


def test_both_modes_are_scored_as_single_sequences_would_be(backbone, encoder, records, writes_the_token_at_once):
    scores = evaluate_slice(backbone, encoder, records, 8, batch=5)
    for name in ("disc", "gen"):
        expected = hits(backbone, encoder, records, name)
        assert scores[f"hit_{name}"] == pytest.approx(sum(expected) / 12)
        assert scores[f"hit_{name}_image"] == pytest.approx(sum(expected[::2]) / 6)
        assert scores[f"hit_{name}_visdoc"] == pytest.approx(sum(expected[1::2]) / 6)
        assert scores[f"{name}_ok"] == 1.0
    assert scores["hit"] == pytest.approx((scores["hit_disc"] + scores["hit_gen"]) / 2)
    assert (scores["queries"], scores["candidates"], scores["chance"]) == (12, 12, pytest.approx(1 / 12))
    assert scores["completion_tokens"] == 1.0


def test_a_query_is_found_when_its_target_is_the_only_one(backbone, encoder, records, writes_the_token_at_once):
    """The negative control of the scores above: an untrained student's may all be zero."""
    one = evaluate_slice(backbone, encoder, records[:1], 8)
    assert (one["hit_disc"], one["hit_gen"], one["candidates"]) == (1.0, 1.0, 1)


def test_a_completion_without_the_token_finds_nothing(backbone, encoder, records):
    scores = evaluate_slice(backbone, encoder, records[:1], 2)
    assert scores["gen_ok"] == 0.0, "the untrained student wrote the token, so this test would prove nothing"
    assert scores["hit_gen"] == 0.0 and scores["hit_disc"] == 1.0 and scores["hit"] == 0.5


def test_the_discriminative_mode_generates_nothing(backbone, encoder, records):
    scores = evaluate_slice(backbone, encoder, records, 8, mode="disc")
    assert scores["hit"] == scores["hit_disc"] and not any("gen" in name for name in scores)


def test_equal_targets_are_one_candidate_and_embedded_once(backbone, encoder, records):
    doubled = [records[0], records[1] | {name: records[0][name] for name in records[0] if name.startswith("target")}]
    scores = evaluate_slice(backbone, encoder, doubled, 2, mode="disc")
    assert (scores["candidates"], scores["hit_disc"], scores["chance"]) == (1, 1.0, 1.0)
    assert len(reasoned(doubled)) == 3


def test_a_side_that_cannot_be_read_is_a_miss_and_shown_in_the_share(backbone, encoder, tmp_path):
    pairs = small_pairs(tmp_path)
    (tmp_path / "red-left-128.png").write_bytes(b"no picture")
    broken = [cold_start_row(pair) for pair in pairs[:1]]
    scores = evaluate_slice(backbone, encoder, broken, 2, mode="disc")
    assert scores["disc_ok"] == 0.5 and scores["hit_disc"] == 0.0


def test_the_models_mode_and_the_random_state_are_left_as_they_were(backbone, encoder, records):
    backbone.model.train()
    state = torch.get_rng_state()
    evaluate_slice(backbone, encoder, records[:2], 2)
    still_training = backbone.model.training
    backbone.model.eval()
    assert still_training and torch.equal(torch.get_rng_state(), state)
