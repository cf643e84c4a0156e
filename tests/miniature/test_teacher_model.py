"""The batched forward pass of training is the forward pass of transformers, on what the processor makes of a side."""

from __future__ import annotations

import random

import pytest
import torch

from umer1_core.miniature.samples import draw_pair, named_attributes
from umer1_core.miniature.teacher import train_teacher
from umer1_core.miniature.teacher_data import BatchMaker
from umer1_core.miniature.teacher_model import MERGE, new_teacher, reply_logits, teacher_config
from umer1_core.miniature.teacher_text import FAILURES, reply, train_tokenizer
from umer1_core.template import TEACHER_TAGS, parse_annotation


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    return train_tokenizer(1)


def test_tags_survive_decoding_and_are_one_token_each(tokenizer) -> None:  # type: ignore[no-untyped-def]
    text = "".join(TEACHER_TAGS)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == len(TEACHER_TAGS)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_batched_pictures_give_the_logits_of_transformers(tokenizer) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = new_teacher(teacher_config(tokenizer.get_vocab())).eval()
    batch = BatchMaker(tokenizer, 3).draw(24, full_prompt=True)
    assert len(batch.patches) > 1, "one grid alone would not test the order of the pictures"
    with torch.no_grad():
        ours = reply_logits(model, batch.tokens, batch.positions, batch.patches, batch.order, batch.wanted)
        visual = []
        for (rows, columns), pixels in batch.patches.items():
            grid = torch.tensor([[1, rows, columns]] * len(pixels))
            visual.append(model.model.visual(pixels.flatten(0, 1), grid_thw=grid).pooler_output)
            assert len(visual[-1]) == len(pixels) * rows * columns // MERGE**2
        embeds = model.model.language_model.embed_tokens(batch.tokens)
        places = (batch.tokens == model.config.image_token_id).unsqueeze(-1)
        embeds = embeds.masked_scatter(places, torch.cat(visual)[batch.order])
        theirs = model(inputs_embeds=embeds, position_ids=batch.positions).logits[batch.wanted]
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_the_same_seed_draws_the_same_batch(tokenizer) -> None:  # type: ignore[no-untyped-def]
    first, second = (BatchMaker(tokenizer, 5).draw(8, full_prompt=False) for _ in range(2))
    assert torch.equal(first.tokens, second.tokens) and torch.equal(first.labels, second.labels)


def test_replies_fail_the_filters_as_often_as_stated_and_else_name_the_truth() -> None:
    rng = random.Random(2)
    side = draw_pair(rng, "train", "mmeb/MSCOCO_i2t").query
    parsed = [parse_annotation(reply(rng, side)[0]) for _ in range(3000)]
    failed = sum(bool(p.problem) for p in parsed) / len(parsed)
    assert abs(failed - sum(FAILURES.values())) < 0.03
    assert {named_attributes(p.summary) for p in parsed if not p.problem} == {side.attributes}


@pytest.mark.slow
def test_training_twice_gives_the_same_weights() -> None:
    first, second = (train_teacher(steps=3)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
