"""hit@1 on a slice, against a loop over single sequences."""

import itertools
import math

import pytest
import torch

from tests.student import cold_start_row, small_pairs, small_student
from umer1_core.backbone.collate import Encoder, collate
from umer1_core.backbone.forward import hidden_states
from umer1_core.backbone.positions import read_embeddings
from umer1_core.retrieval import similarities
from umer1_core.training.watch.slice import look_at_slice, reasoned


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
    scores = look_at_slice(backbone, encoder, records, 8, batch=5).scores
    for name in ("disc", "gen"):
        expected = hits(backbone, encoder, records, name)
        assert scores[f"hit_{name}"] == pytest.approx(sum(expected) / 12)
        assert scores[f"hit_{name}_image"] == pytest.approx(sum(expected[::2]) / 6)
        assert scores[f"hit_{name}_visdoc"] == pytest.approx(sum(expected[1::2]) / 6)
        assert scores[f"{name}_ok"] == 1.0
    assert scores["hit"] == pytest.approx((scores["hit_disc"] + scores["hit_gen"]) / 2)
    assert (scores["queries"], scores["candidates"], scores["chance"]) == (12, 12, pytest.approx(1 / 12))
    assert scores["completion_tokens"] == 1.0


def test_what_each_query_found_is_what_the_scores_are_of(backbone, encoder, records, writes_the_token_at_once):
    look = look_at_slice(backbone, encoder, records, 8, batch=5)
    vectors = [alone(backbone, encoder, side)["gen"] for side in reasoned(records)]
    queries, targets = torch.stack(vectors[::2]), torch.stack(vectors[1::2])
    table = queries @ targets.T
    either = [a or b for a, b in zip(*(hits(backbone, encoder, records, n) for n in ("gen", "disc")), strict=True)]
    assert [f.right for f in look.found] == (table.argmax(1) == torch.arange(12)).tolist()
    for row, (found, record) in enumerate(zip(look.found, records, strict=True)):
        assert found.target == records[int(table[row].argmax())]["target_key"]
        others = torch.cat([table[row, :row], table[row, row + 1 :]])
        assert found.margin == pytest.approx(float(table[row, row] - others.max()), abs=1e-5)
        assert (found.margin > 0) == found.right and found.completion == "<gen_emb>"
        assert look.sides[record["query_key"]].steps == 1
    assert look.scores["oracle"] == pytest.approx(sum(either) / 12)
    assert look.scores["hit_gen"] == pytest.approx(sum(f.right for f in look.found) / 12)


def test_of_a_tie_the_wrong_target_is_what_was_found(backbone, encoder, records, monkeypatch, writes_the_token_at_once):
    """It is a miss: that the right one is shown would be an accident of their order."""
    monkeypatch.setattr("umer1_core.training.watch.slice.similarities", lambda *given: similarities(*given) * 0)
    found = look_at_slice(backbone, encoder, records[:2], 8).found
    assert [f.target for f in found] == [records[1]["target_key"], records[0]["target_key"]]
    assert [(f.right, f.margin) for f in found] == [(False, 0.0)] * 2


def test_a_query_is_found_when_its_target_is_the_only_one(backbone, encoder, records, writes_the_token_at_once):
    """The negative control of the scores above: an untrained student's may all be zero."""
    one = look_at_slice(backbone, encoder, records[:1], 8).scores
    assert (one["hit_disc"], one["hit_gen"], one["candidates"]) == (1.0, 1.0, 1)
    (found,) = look_at_slice(backbone, encoder, records[:1], 8).found
    assert found.right and found.target == records[0]["target_key"] and math.isnan(found.margin)


def test_a_completion_without_the_token_finds_nothing(backbone, encoder, records):
    scores = look_at_slice(backbone, encoder, records[:1], 2).scores
    assert scores["gen_ok"] == 0.0, "the untrained student wrote the token, so this test would prove nothing"
    assert scores["hit_gen"] == 0.0 and scores["hit_disc"] == 1.0 and scores["hit"] == 0.5
    assert scores["oracle"] == 1.0
    (found,) = look_at_slice(backbone, encoder, records[:1], 2).found
    assert found.completion and not found.target and not found.right and math.isnan(found.margin)


def test_the_discriminative_mode_generates_nothing(backbone, encoder, records):
    scores = look_at_slice(backbone, encoder, records, 8, mode="disc").scores
    assert scores["hit"] == scores["hit_disc"] and not any("gen" in name for name in scores)
    assert "oracle" not in scores and not look_at_slice(backbone, encoder, records[:2], 8, mode="disc").found


def test_equal_targets_are_one_candidate_and_embedded_once(backbone, encoder, records):
    doubled = [records[0], records[1] | {name: records[0][name] for name in records[0] if name.startswith("target")}]
    scores = look_at_slice(backbone, encoder, doubled, 2, mode="disc").scores
    assert (scores["candidates"], scores["hit_disc"], scores["chance"]) == (1, 1.0, 1.0)
    assert len(reasoned(doubled)) == 3


def test_a_side_that_cannot_be_read_is_a_miss_and_shown_in_the_share(backbone, encoder, tmp_path):
    pairs = small_pairs(tmp_path)
    (tmp_path / "red-left-128.png").write_bytes(b"no picture")
    broken = [cold_start_row(pair) for pair in pairs[:1]]
    scores = look_at_slice(backbone, encoder, broken, 2, mode="disc").scores
    assert scores["disc_ok"] == 0.5 and scores["hit_disc"] == 0.0


def test_the_models_mode_and_the_random_state_are_left_as_they_were(backbone, encoder, records):
    backbone.model.train()
    state = torch.get_rng_state()
    look_at_slice(backbone, encoder, records[:2], 2)
    still_training = backbone.model.training
    backbone.model.eval()
    assert still_training and torch.equal(torch.get_rng_state(), state)
