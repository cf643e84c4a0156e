"""Pairs of the coming steps, made in the background."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.student import clip, cold_start_row, small_pairs, small_student
from umer1_core.backbone.collate import Encoder
from umer1_core.errors import Fatal, StorageError
from umer1_core.pairs import Media, Pair, Side, side_record
from umer1_core.sft.data.loader import Loader, LoaderSettings
from umer1_core.store import Store
from umer1_core.template import training_prompt
from umer1_core.training.data.batches import Batches
from umer1_core.training.data.cold_start import ColdStart

IN_LINE = LoaderSettings(workers=0)
NEGATIVES = [Side("A green square."), Side("A blue square.")]


@pytest.fixture
def store(tmp_path):
    """36 pairs of pictures, clips and text in two shards; `0-2` has no picture, `1-3` no <gen_emb>, `0-4` negatives."""
    pairs = small_pairs(tmp_path)
    pairs += [Pair(f"c{i}", "test/clip", "video", Side("?", (clip(tmp_path, "red"),)), Side("red")) for i in range(6)]
    store = Store(str(tmp_path / "data"))
    for shard in range(2):
        rows = [cold_start_row(pair) | {"pair_id": f"{shard}-{i}"} for i, pair in enumerate(pairs)]
        if shard:
            rows[3]["query_response"] = "<think>It was cut off"
        else:
            rows[2]["query_media"] = side_record(Side("", (Media("image", str(tmp_path / "none.png")),)))["media"]
            unreadable = Side("", (Media("image", str(tmp_path / "gone.png")),))
            own = pairs[4].target
            rows[4]["negatives"] = [side_record(s) for s in (own, NEGATIVES[0], unreadable, NEGATIVES[1])]
        store.write_shard("cold_start", f"{shard:05d}", rows)
    return store


def loader(store, first=0, last=6, settings=IN_LINE, encoder=None, **options):
    data = ColdStart(store)
    batches = Batches(data.source_codes, data.trainable, 12, 6, 5, lengths=np.arange(len(data)))
    return Loader(data, batches, encoder or Encoder(small_student(), 512), first, last, settings, **options)


def seen(step):
    rows = [(p.pair_id, p.source, p.query_key, p.query.prompt, p.target.response, len(p.negatives)) for p in step.pairs]
    return step.step, step.epoch, rows, step.rejections, step.drawn, step.lost_negatives


def test_threads_give_what_one_process_in_line_gives(store):
    with loader(store, settings=LoaderSettings(workers=4, prefetch=3, negatives_per_query=2)) as threads:
        found = [seen(step) for step in threads]
    assert found == [seen(step) for step in loader(store, settings=LoaderSettings(0, negatives_per_query=2))]
    assert [(step, epoch, drawn) for step, epoch, _, _, drawn, _ in found] == [(i, i // 3, 12) for i in range(6)]


def test_pixels_are_those_of_the_encoder(store):
    encoder = Encoder(small_student(), 512)
    for step in loader(store, 0, 3):
        for pair in step.pairs:
            assert (len(pair.query.pixels) == 1) == bool(pair.query.pixels) and not pair.target.pixels
    (row,) = ColdStart(store).rows([15])
    media = [Media("video", row["query_media"][0]["uri"], frames=tuple(row["query_media"][0]["frames"]))]
    own = encoder.encode(row["query_prompt"], media, row["query_response"])
    made = next(p for step in loader(store, 0, 3) for p in step.pairs if p.pair_id == "0-15")
    assert torch.equal(made.query.pixels[0].patches, own.pixels[0].patches) and made.query.prompt == own.prompt


def test_a_resumed_training_sees_what_one_that_ran_through_sees(store):
    whole = [seen(step)[2] for step in loader(store)]
    assert [seen(step)[2] for step in loader(store, first=4)] == whole[4:]


def test_a_row_that_cannot_be_used_is_told_once_and_not_replaced(store):
    steps = list(loader(store))
    told = [rejection for step in steps for rejection in step.rejections]
    assert sorted((r.pair_id, r.reason) for r in told) == [("0-2", "media_missing"), ("1-3", "no_gen_emb")]
    assert all(rejection.detail.startswith("query: ") for rejection in told)
    assert sum(len(step.pairs) for step in steps) == 6 * 12 - 2 * 2, "it is left out in both epochs"
    again = [rejection for step in loader(store, told=["0-2", "1-3"]) for rejection in step.rejections]
    assert again == []


def test_ranks_share_a_step(store):
    whole = [seen(step) for step in loader(store, last=3)]
    shares = [[seen(step) for step in loader(store, last=3, rank=rank, world=3)] for rank in range(3)]
    for number in range(3):
        names = [row[0] for share in shares for row in share[number][2]]
        assert sorted(names) == sorted(row[0] for row in whole[number][2])
        assert [share[number][4] for share in shares] == [4, 4, 4]


def test_hard_negatives_are_prompts_and_an_unreadable_one_costs_only_itself(store):
    encoder, found = Encoder(small_student(), 512), {}
    lost = 0
    for step in loader(store, last=3, settings=LoaderSettings(0, negatives_per_query=3)):
        found |= {pair.pair_id: pair for pair in step.pairs}
        lost += step.lost_negatives
    wanted = [encoder.encode(training_prompt(side.text), ()) for side in NEGATIVES]
    assert [(row.prompt, row.response) for row in found["0-4"].negatives] == [(row.prompt, ()) for row in wanted]
    assert lost == 1 and found["0-5"].negatives == ()


def test_without_responses_a_row_is_its_prompt(store):
    (step,) = loader(store, last=1, settings=replace(IN_LINE, responses=False))
    assert step.pairs and all(pair.query.response == pair.target.response == () for pair in step.pairs)


def test_torch_s_random_state_is_left_alone(store):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with loader(store, settings=LoaderSettings(workers=3)) as steps:
        list(steps)
    assert torch.equal(torch.get_rng_state(), before)


class Failing(Encoder):
    """Fails on the prompt that asks for it."""

    def encode(self, prompt, media, response=""):
        if media and media[0].kind == "video":
            raise RuntimeError("out of file handles")
        return super().encode(prompt, media, response)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_reaches_the_consumer_with_its_row_named(store, workers):
    before = threading.active_count()
    steps = loader(store, settings=LoaderSettings(workers), encoder=Failing(small_student(), 512))
    with pytest.raises(Fatal, match=r"Pair [01]-1\d of test/clip cannot be encoded: RuntimeError: out of file") as told:
        list(steps)
    assert isinstance(told.value.__cause__, RuntimeError)
    assert threading.active_count() == before, "and the threads are gone"


def test_a_damaged_shard_is_no_fault_of_a_row(store):
    steps = loader(store, settings=LoaderSettings(2))
    with open(store.at(store.shard_name("cold_start", "00001")), "wb") as file:
        file.write(b"PAR1")
    with pytest.raises(StorageError, match=r"00001\.parquet"):
        list(steps)


class Slow(Encoder):
    """Counts what it encodes, slowly."""

    calls = 0

    def encode(self, prompt, media, response=""):
        Slow.calls += 1
        time.sleep(0.01)
        return super().encode(prompt, media, response)


def test_steps_ahead_are_made_and_no_more(store):
    Slow.calls = 0
    with loader(store, settings=LoaderSettings(workers=2, prefetch=1), encoder=Slow(small_student(), 512)) as steps:
        next(steps)
        deadline = time.monotonic() + 10
        while Slow.calls < 2 * 24 - 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert 2 * 24 - 4 <= Slow.calls <= 2 * 24


def test_close_stops_at_once(store):
    Slow.calls = 0
    steps = loader(store, settings=LoaderSettings(workers=2, prefetch=5), encoder=Slow(small_student(), 512))
    next(steps)
    steps.close()
    ended = Slow.calls
    time.sleep(0.05)
    assert Slow.calls == ended < 6 * 20
    assert list(steps) == []
