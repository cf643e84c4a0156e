"""Token counts from texts and sizes are those of the encoder, to the token."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.backbone.families import KINDS, fresh
from tests.student import QUERY, clip, cold_start_row, picture, small_pairs, small_student
from umer1_core.backbone.collate import Encoder
from umer1_core.errors import BadInput, StorageError
from umer1_core.media import describe
from umer1_core.pairs import Media, Pair, Side, side_record
from umer1_core.sft.data.lengths import load_lengths, measure_lengths
from umer1_core.sft.data.token_count import TokenCounter
from umer1_core.store import Store
from umer1_core.template import training_prompt, training_response
from umer1_core.training.data.cold_start import ColdStart

RESPONSE = training_response("It shows a disc.", "A disc.")


def media_of_all_kinds(folder):
    """By name: pictures and clips of odd sizes, with and without a size or notes on record."""
    wide = picture(folder, "red", size=(200, 30))
    tall = describe(picture(folder, "green", size=(33, 190)))
    turned = folder / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (180, 40), (9, 9, 9)).save(turned, exif=exif)
    moving = clip(folder, "blue")
    return {
        "text alone": (),
        "a picture of unknown size": (replace(wide, width=0, height=0),),
        "a picture with half a size": (wide,),
        "a tall picture": (tall,),
        "a turned photograph": (describe(Media("image", str(turned))),),
        "a turned photograph of unknown size": (Media("image", str(turned)),),
        "a picture that is shown smaller": (replace(tall, notes=("resize:28x84",)),),
        "a clip of unknown size": (moving,),
        "a clip of an odd number of frames": (describe(replace(moving, frames=moving.frames[:5])),),
        "one frame": (describe(replace(moving, frames=moving.frames[:1])),),
        "two pictures and a clip": (tall, describe(wide), moving),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_media_counts_as_the_encoder_makes_it(kind, tmp_path):
    backbone = fresh(kind)
    encoder = Encoder(backbone, 4_096)

    def made(side):
        try:
            return len(encoder.encode(*side))
        except BadInput as error:
            return error.reason

    sides = {name: (training_prompt(QUERY), media, RESPONSE) for name, media in media_of_all_kinds(tmp_path).items()}
    counted = [c.reason if isinstance(c, BadInput) else c for c in TokenCounter(backbone).count(list(sides.values()))]
    assert dict(zip(sides, counted, strict=True)) == {name: made(side) for name, side in sides.items()}
    assert len({count for count in counted if isinstance(count, int)}) > 5, "sizes do matter"


def test_a_prompt_alone_counts_without_a_turn():
    side = (training_prompt("red disc"), (), "")
    assert TokenCounter(small_student()).count([side]) == [len(Encoder(small_student(), 512).encode(*side))]
    spoken = (training_prompt("red disc"), (), RESPONSE)
    assert TokenCounter(small_student(), responses=False).count([spoken]) == TokenCounter(small_student()).count([side])


@pytest.mark.parametrize(
    ("prompt", "response"),
    [("no token", RESPONSE), (training_prompt("a disc"), "no token"), (training_prompt("<|image_pad|>"), RESPONSE)],
)
def test_what_the_encoder_refuses_in_a_text_is_refused_with_the_same_reason(prompt, response):
    with pytest.raises(BadInput) as refused:
        Encoder(small_student(), 512).encode(prompt, (), response)
    (found,) = TokenCounter(small_student()).count([(prompt, (), response)])
    assert (found.reason, found.detail) == (refused.value.reason, refused.value.detail)


def test_a_size_is_read_once_for_all_media_of_that_size(tmp_path, monkeypatch):
    counter = TokenCounter(small_student())
    known = describe(picture(tmp_path, "red"))
    counter.visual_tokens(known)
    monkeypatch.setattr("umer1_core.sft.data.token_count.torch.empty", None)
    assert counter.visual_tokens(replace(known, uri="nowhere", content_hash="other")) > 0


@pytest.fixture
def store(tmp_path):
    """Two shards of twelve pairs; of the second, row 3 is long, row 4 has no <gen_emb>, row 5 a missing picture."""
    pairs = small_pairs(tmp_path)
    store = Store(str(tmp_path / "data"))
    for shard in range(2):
        rows = [cold_start_row(pair) | {"pair_id": f"{shard}-{i}"} for i, pair in enumerate(pairs)]
        if shard:
            rows[3]["target_response"] = training_response("It goes on. " * 200, "A disc.")
            rows[4]["query_response"] = "<think>It was cut off"
            rows[5]["query_media"] = side_record(Side("", (Media("image", str(tmp_path / "none.png")),)))["media"]
        store.write_shard("cold_start", f"{shard:05d}", rows)
    return store


def measured(store, folder, **options):
    data, counter = ColdStart(store), TokenCounter(small_student())
    measure_lengths(data, counter, folder, **options)
    return data, load_lengths(data, counter, folder, options.get("negatives", 0))


def test_rows_that_cannot_be_used_are_named_before_training(store, tmp_path):
    data, lengths = measured(store, tmp_path / "sft")
    rejections = lengths.rejections(data, 512)
    assert [(r.pair_id, r.source, r.reason) for r in rejections] == [
        ("1-3", "test/caption", "too_many_tokens"),
        ("1-4", "test/caption", "no_gen_emb"),
    ]
    assert rejections[0].detail == f"target: {lengths.target[15]} tokens, the limit is 512"
    assert rejections[1].detail.startswith("query: ")
    assert np.flatnonzero(~lengths.usable(512)).tolist() == [15, 16]


def test_a_missing_picture_is_left_for_loading_to_tell(store, tmp_path):
    _, lengths = measured(store, tmp_path / "sft")
    assert lengths.query[17] == 0 and lengths.usable(512)[17]


def test_lengths_are_those_of_the_encoder(store, tmp_path):
    data, lengths = measured(store, tmp_path / "sft")
    encoder = Encoder(small_student(), 4_096)
    for number, row in enumerate(data.rows(range(12))):
        assert lengths.target[number] == len(encoder.encode(row["target_prompt"], (), row["target_response"]))
    assert (lengths.of_pairs == lengths.query + lengths.target).all()


def test_finished_shards_are_not_counted_again(store, tmp_path):
    folder, progress = tmp_path / "sft", []

    def note(done, total):
        progress.append((done, total))

    measure_lengths(ColdStart(store), TokenCounter(small_student()), folder, rank=1, world=2, on_progress=note)
    assert progress == [(12, 12)] and not (folder / "lengths/00000.parquet").exists()
    before = (folder / "lengths/00001.parquet").stat().st_mtime_ns
    measured(store, folder, on_progress=note)
    assert progress[1:] == [(12, 24), (24, 24)]
    assert (folder / "lengths/00001.parquet").stat().st_mtime_ns == before


def test_a_changed_shard_tokenizer_or_pixel_limit_is_counted_again(store, tmp_path):
    folder = tmp_path / "sft"
    data, _ = measured(store, folder)
    with pytest.raises(StorageError, match="lacks 2 shards"):
        load_lengths(data, TokenCounter(small_student(), responses=False), folder)
    size = small_student().processor.image_processor.size
    whole, size["longest_edge"] = size["longest_edge"], size["shortest_edge"]
    try:
        with pytest.raises(StorageError, match="lacks 2 shards"):
            load_lengths(data, TokenCounter(small_student()), folder)
    finally:
        size["longest_edge"] = whole
    store.write_shard("cold_start", "00000", store.read_shard("cold_start", "00001"))
    with pytest.raises(StorageError, match="lacks 1 shards, the first 00000"):
        load_lengths(ColdStart(store), TokenCounter(small_student()), folder)


def test_a_damaged_file_of_lengths_is_made_again(store, tmp_path):
    folder = tmp_path / "sft"
    _, first = measured(store, folder)
    (folder / "lengths/00000.parquet").write_bytes(b"half of it")
    assert (measured(store, folder)[1].query == first.query).all()
    assert pq.read_metadata(folder / "lengths/00000.parquet").num_rows == 12


def test_negatives_count_with_their_pair(tmp_path):
    wrong = [Side("A green square."), Side("right"), Side("A blue square at the left.")]
    pair = Pair("0", "test", "image", Side("find"), Side("right"), tuple(wrong))
    row = cold_start_row(pair) | {"negatives": [side_record(side) for side in wrong]}
    store = Store(str(tmp_path / "data"))
    store.write_shard("cold_start", "00000", [row, row | {"negatives": []}])
    _, lengths = measured(store, tmp_path / "sft", negatives=2)
    encoder = Encoder(small_student(), 512)
    both = sum(len(encoder.encode(training_prompt(side.text), ())) for side in (wrong[0], wrong[2]))
    assert lengths.negatives.tolist() == [both, 0]
    assert lengths.of_pairs[0] - lengths.of_pairs[1] == both
