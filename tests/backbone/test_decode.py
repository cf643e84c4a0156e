"""Decoding over copies of a prompt's cache: its states and embeddings are those of one pass over the whole."""

import pytest
import torch
from torch.nn.functional import normalize

from tests.grpo.by_hand import full_states
from tests.student import clip, picture
from umer1_core.backbone.collate import collate
from umer1_core.backbone.decode import decode, prefill
from umer1_core.template import training_prompt

G = 3


@pytest.fixture(scope="module")
def prompts(encoder, tmp_path_factory):
    """A picture, text alone, and a clip: of three lengths."""
    folder = tmp_path_factory.mktemp("decode")
    sides = [
        ("Find a caption", (picture(folder, "red"),)),
        ("A disc.", ()),
        ("What moves, and where?", (clip(folder, "blue"),)),
    ]
    return [encoder.encode(training_prompt(text), media) for text, media in sides]


class Told:
    """Chooses what it is told for each row; keeps the states it is shown."""

    def __init__(self, texts, end):
        self.texts, self.end, self.open = texts, end, list(range(len(texts)))
        self.states = [[] for _ in texts]
        self.step = 0

    def __call__(self, states):
        assert len(states) == len(self.open)
        tokens = []
        for row, state in zip(self.open, states, strict=True):
            self.states[row].append(state)
            tokens.append(self.texts[row][self.step])
        self.open = [row for row in self.open if self.texts[row][self.step] != self.end]
        self.step += 1
        return torch.tensor(tokens)


@pytest.fixture(scope="module")
def texts(backbone, prompts):
    """Of unlike lengths; with one, two or no `<gen_emb>`, also last of all; the longest never ends its turn."""
    ids = backbone.ids
    random = torch.Generator().manual_seed(0)

    def words(count):
        return torch.randint(40, 300, (count,), generator=random).tolist()

    first = [*words(4), ids.gen, ids.end_of_turn]
    twice = [*words(2), ids.gen, *words(3), ids.gen, *words(1), ids.end_of_turn]
    none = [*words(7), ids.end_of_turn]
    never = [*words(3), ids.gen, *words(30)]
    late = [*words(11), ids.gen, *words(9)]
    without = words(40)
    return [first, twice, none, never, [ids.end_of_turn], [*words(1), ids.end_of_turn], late, without, list(twice)]


@pytest.fixture(scope="module")
def written(backbone, prompts, texts):
    told = Told(texts, backbone.ids.end_of_turn)
    with torch.no_grad():
        run = prefill(backbone, collate(prompts, backbone.ids, backbone.device, "left")).repeat(G)
        reading, found = decode(backbone, run, told, max_new_tokens=12)
    return told, reading, found


def alone(backbone, prompts, row, ids):
    """The states of one rollout in one pass: those that predict its ids, and those at its ids."""
    prompt = prompts[row // G]
    with torch.no_grad():
        states, _ = full_states(backbone, prompt, ids)
    return states[len(prompt) - 1 : -1], states[len(prompt) :]


def test_a_row_is_cut_at_the_limit_and_ends_with_its_turn(backbone, texts, written):
    _, _, found = written
    assert found == [text[:12] for text in texts]
    assert [ids[-1] == backbone.ids.end_of_turn for ids in found] == [1, 1, 1, 0, 1, 1, 0, 0, 1]


def test_the_states_that_choose_are_those_of_one_pass_over_the_whole(backbone, prompts, written):
    told, _, found = written
    for row, ids in enumerate(found):
        expected, _ = alone(backbone, prompts, row, ids)
        assert (torch.stack(told.states[row]) - expected).abs().max() < 1e-5, row


def test_rollouts_of_one_prompt_do_not_see_each_other_or_another_prompt(backbone, prompts, written):
    """Negative control: the same ids behind another prompt have other states."""
    told, _, found = written
    expected, _ = alone(backbone, [prompts[1], prompts[0], prompts[2]], 1, found[1])
    assert (torch.stack(told.states[1]) - expected).abs().max() > 1e-2


def test_the_embedding_is_the_state_at_the_last_gen_emb(backbone, prompts, written):
    _, reading, found = written
    gen = backbone.ids.gen
    assert reading.statuses == ("ok", "ok", "no_token", "ok", "no_token", "no_token", "ok", "truncated", "ok")
    for row, ids in enumerate(found):
        if gen not in ids:
            assert not reading.vectors[row].any()
            continue
        _, states = alone(backbone, prompts, row, ids)
        places = [place for place, token in enumerate(ids) if token == gen]
        at = [normalize(states[place], dim=-1) for place in places]
        assert (reading.vectors[row] - at[-1]).abs().max() < 1e-5
        if len(places) == 2:
            assert (reading.vectors[row] - at[0]).abs().max() > 1e-3
