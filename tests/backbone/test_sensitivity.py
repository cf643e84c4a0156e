"""Whether the generative embedding depends on its reasoning, on models for which the answer is known."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from tests.student import QUERY, picture
from umer1_core.backbone.collate import collate
from umer1_core.backbone.forward import hidden_states
from umer1_core.backbone.positions import read_embeddings
from umer1_core.backbone.sensitivity import Reasoned, cot_sensitivity
from umer1_core.template import training_prompt, training_response

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    return [
        Reasoned(
            training_prompt(QUERY), (picture(folder, colour),), training_response(f"I see a {colour} disc.", colour)
        )
        for colour in COLOURS
    ]


def gen_vector(backbone, encoder, row, response):
    """The embedding of one sequence, alone."""
    batch = collate([encoder.encode(row.prompt, row.media, response)], backbone.ids, backbone.device)
    with torch.inference_mode():
        hidden = hidden_states(backbone, batch)
    return read_embeddings(hidden, batch.ids, backbone.ids.gen, batch.assistant).vectors[0]


def cosine(a, b) -> float:
    return float((a * b).sum())


def test_the_cosines_are_those_of_the_sequences_their_names_say(backbone, encoder, rows):
    def vector(row, thought, said):
        return gen_vector(backbone, encoder, row, training_response(thought, said))

    own = [vector(row, f"I see a {c} disc.", c) for row, c in zip(rows, COLOURS, strict=True)]
    swapped, swapped_all, empty, other = [], [], [], []
    for i, row in enumerate(rows):
        j = (i + 1) % 3
        swapped.append(cosine(own[i], vector(row, f"I see a {COLOURS[j]} disc.", COLOURS[i])))
        swapped_all.append(cosine(own[i], vector(row, f"I see a {COLOURS[j]} disc.", COLOURS[j])))
        empty.append(cosine(own[i], vector(row, "", COLOURS[i])))
        other.append(cosine(own[i], own[j]))
    found = cot_sensitivity(backbone, encoder, rows, batch=4)
    assert (found.rows, found.left_out) == (3, 0)
    for value, expected in zip(
        (found.swapped, found.swapped_all, found.empty, found.other),
        (swapped, swapped_all, empty, other),
        strict=True,
    ):
        assert value == pytest.approx(sum(expected) / 3, abs=1e-5)


def test_a_model_that_cannot_look_back_is_found_to_ignore_its_reasoning(backbone, encoder, rows):
    blind = replace(backbone, model=copy.deepcopy(backbone.model))
    with torch.no_grad():
        for layer in blind.model.model.language_model.layers:
            layer.self_attn.o_proj.weight.zero_()
    found = cot_sensitivity(blind, encoder, rows)
    assert (found.swapped, found.swapped_all, found.empty) == pytest.approx((1, 1, 1), abs=1e-5)
    seeing = cot_sensitivity(backbone, encoder, rows)
    assert max(seeing.swapped, seeing.swapped_all, seeing.empty) < 1 - 1e-4


def test_rows_without_the_form_or_unreadable_are_left_out_and_counted(backbone, encoder, rows, tmp_path):
    media = picture(tmp_path, "black")
    (tmp_path / "black-middle-128.png").write_bytes(b"no picture")
    broken = [
        replace(rows[0], response="It is red.<gen_emb>"),
        replace(rows[0], response=rows[0].response.replace("<gen_emb>", "")),
        Reasoned(training_prompt(QUERY), (media,), training_response("Something black.", "black")),
    ]
    found, clean = (cot_sensitivity(backbone, encoder, given) for given in ([*rows, *broken[:2]], rows))
    assert found.left_out == 2 and found.swapped == pytest.approx(clean.swapped, abs=1e-6)
    assert cot_sensitivity(backbone, encoder, [*rows, broken[2]]).left_out >= 1


@pytest.mark.parametrize("count", [0, 1, 2])
def test_without_two_rows_that_differ_there_is_no_number(backbone, encoder, rows, count):
    found = cot_sensitivity(backbone, encoder, [rows[0]] * count)
    assert math.isnan(found.swapped) and math.isnan(found.other) and (found.rows, found.left_out) == (0, count)
    assert set(found.record()) == {"cot_swapped", "cot_swapped_all", "cot_empty", "cot_other", "cot_rows"}


def test_the_models_mode_and_the_random_state_are_left_as_they_were(backbone, encoder, rows):
    backbone.model.train()
    state = torch.get_rng_state()
    cot_sensitivity(backbone, encoder, rows)
    still_training = backbone.model.training
    backbone.model.eval()
    assert still_training and torch.equal(torch.get_rng_state(), state)
