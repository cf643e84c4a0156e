"""What the student sees, and where its embeddings are read."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from tests.student import QUERY, clip, picture
from umer1_core.backbone.collate import IGNORED, Encoder, collate
from umer1_core.backbone.family import Family
from umer1_core.backbone.forward import hidden_states
from umer1_core.backbone.model import add_embedding_tokens, checkpoint_hash, load_backbone
from umer1_core.backbone.pixels import PixelReader
from umer1_core.backbone.positions import read_embeddings
from umer1_core.errors import BadInput, Fatal
from umer1_core.miniature.student import build_student
from umer1_core.template import DISC_EMB, GEN_EMB, training_prompt, training_response

PROMPT, RESPONSE = training_prompt(QUERY), training_response("It is red.", "red")


@pytest.fixture(scope="module")
def mixed(encoder, tmp_path_factory):
    """Rows of different lengths: a picture, a clip, a page, two pictures, text alone."""
    folder = tmp_path_factory.mktemp("media")
    page = picture(folder, "blue", size=(128, 192))
    media = [
        [picture(folder, "red")],
        [clip(folder, "green")],
        [page],
        [picture(folder, "black"), picture(folder, "red", "left")],
        [],
    ]
    texts = [PROMPT, training_prompt("clip"), PROMPT, training_prompt("two"), training_prompt("some words and more")]
    return [encoder.encode(text, items, RESPONSE) for text, items in zip(texts, media, strict=True)]


def both(backbone, batch):
    with torch.inference_mode():
        hidden = hidden_states(backbone, batch)
    gen = read_embeddings(hidden, batch.ids, backbone.ids.gen, batch.assistant)
    disc = read_embeddings(hidden, batch.ids, backbone.ids.disc, batch.user)
    return gen.vectors, disc.vectors


def make_batch(backbone, rows, layout="right"):
    return collate(rows, backbone.ids, backbone.device, layout)


# -- rows ------------------------------------------------------------------------------------------------------------


def test_labels_are_the_assistants_turn_with_the_embedding_token_and_the_end_of_turn(backbone, mixed):
    batch = make_batch(backbone, mixed)
    for row, labels in zip(mixed, batch.labels, strict=True):
        supervised = labels[labels != IGNORED].tolist()
        text = backbone.processor.tokenizer.decode(supervised)
        assert supervised == list(row.response) and text == f"{RESPONSE}<|im_end|>"


def test_prompts_stand_as_chatml_with_media_before_the_text(backbone, mixed):
    text = backbone.processor.tokenizer.decode(mixed[0].prompt)
    assert text.startswith("<|im_start|>user\n<|vision_start|><|image_pad|>")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert text.index("<|vision_end|>") < text.index(QUERY) < text.index(DISC_EMB)


def test_a_clip_is_passed_as_a_video(backbone, mixed):
    assert mixed[1].pixels[0].kind == "video" and mixed[1].pixels[0].grid == (4, 4, 4)
    assert backbone.ids.video in mixed[1].prompt and backbone.ids.image not in mixed[1].prompt


def test_a_row_over_the_limit_is_rejected_with_its_length_and_never_cut(backbone):
    length = len(Encoder(backbone, 1024).encode(PROMPT, [], RESPONSE))
    assert len(Encoder(backbone, length).encode(PROMPT, [], RESPONSE)) == length
    with pytest.raises(BadInput, match=f"{length} tokens") as caught:
        Encoder(backbone, length - 1).encode(PROMPT, [], RESPONSE)
    assert caught.value.reason == "too_many_tokens"


def test_a_text_with_the_templates_own_placeholder_is_rejected(encoder):
    with pytest.raises(BadInput) as caught:
        encoder.encode("look: <|image_pad|>", [], RESPONSE)
    assert caught.value.reason == "placeholder_in_text"


@pytest.mark.parametrize(
    ("prompt", "response", "reason"),
    [("no token", RESPONSE, "no_disc_emb"), (PROMPT, "<think>no token</think>", "no_gen_emb")],
)
def test_a_side_without_its_embedding_token_is_rejected(encoder, prompt, response, reason):
    with pytest.raises(BadInput) as caught:
        encoder.encode(prompt, [], response)
    assert caught.value.reason == reason


def test_threads_may_share_an_encoder_whose_memory_is_full(backbone, tmp_path):
    media = [picture(tmp_path, colour, place) for colour in ("red", "green") for place in ("left", "right")]
    reader = PixelReader(backbone.processor, limit=2 * PixelReader(backbone.processor).read(media[0]).bytes)
    wanted = [reader.read(item).patches for item in media]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(reader.read, media * 40))
    assert all(torch.equal(p.patches, wanted[i % len(media)]) for i, p in enumerate(found))
    assert reader._used == sum(p.bytes for p in reader._kept.values()) <= reader._limit


def test_damaged_media_are_bad_input(encoder, tmp_path):
    media = picture(tmp_path, "green", "left")
    (tmp_path / "green-left-128.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(BadInput):
        encoder.encode(PROMPT, [media], RESPONSE)


def test_rows_equal_the_processors_own_inputs(backbone, encoder, tmp_path):
    """The ids and pixels that `Qwen2VLProcessor` makes of the same conversation."""
    from umer1_core.media import open_image, read_image

    media = picture(tmp_path, "red")
    row = encoder.encode(PROMPT, [media])
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}
    text = backbone.processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    inputs = backbone.processor(text=[text], images=[open_image(read_image(media))], return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == list(row.prompt)
    assert torch.allclose(inputs["pixel_values"], row.pixels[0].patches, atol=1e-5)


# -- embeddings ------------------------------------------------------------------------------------------------------


def test_embeddings_are_unit_vectors_in_fp32(backbone, mixed):
    for vectors in both(backbone, make_batch(backbone, mixed)):
        assert vectors.dtype == torch.float32 and torch.allclose(vectors.norm(dim=1), torch.ones(len(mixed)))


def test_another_picture_gives_another_embedding(backbone, encoder, tmp_path):
    rows = [encoder.encode(PROMPT, [picture(tmp_path, colour)], RESPONSE) for colour in ("red", "blue")]
    for vectors in both(backbone, make_batch(backbone, rows)):
        assert (vectors[0] - vectors[1]).abs().max() > 1e-4


def test_the_order_of_frames_matters(backbone, encoder, tmp_path):
    rows = [encoder.encode(PROMPT, [clip(tmp_path, "red", way)], RESPONSE) for way in (False, True)]
    _, disc = both(backbone, make_batch(backbone, rows))
    assert (disc[0] - disc[1]).abs().max() > 1e-4


def test_the_prompts_literal_gen_emb_is_not_the_embedding(backbone, encoder):
    row = encoder.encode(PROMPT, [])
    assert backbone.ids.gen in row.prompt, "the prompt no longer names <gen_emb>, so this test would prove nothing"
    batch = make_batch(backbone, [row])
    hidden = torch.randn(1, len(row), 8)
    reading = read_embeddings(hidden, batch.ids, backbone.ids.gen, batch.assistant)
    assert reading.statuses == ("no_token",) and reading.vectors.abs().sum() == 0
    whole = torch.tensor([[0, len(row)]])
    assert read_embeddings(hidden, batch.ids, backbone.ids.gen, whole).statuses == ("ok",)


def test_the_last_occurrence_in_the_span_is_read():
    ids = torch.tensor([[7, 1, 7, 1, 7]])
    hidden = torch.eye(5).unsqueeze(0)
    assert read_embeddings(hidden, ids, 7, torch.tensor([[0, 4]])).vectors.argmax() == 2
    assert read_embeddings(hidden, ids, 7, torch.tensor([[0, 5]])).vectors.argmax() == 4


def test_a_row_that_hit_the_limit_without_the_token_is_truncated():
    spans = torch.tensor([[0, 2], [2, 4]])
    reading = read_embeddings(
        torch.ones(2, 2, 3), torch.tensor([[1, 2], [1, 2]]), 9, spans, torch.tensor([True, False])
    )
    assert reading.statuses == ("truncated", "no_token")


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_the_student_is_built_the_same_twice(tmp_path):
    texts = [PROMPT, RESPONSE] * 20
    for name in ("a", "b"):
        build_student(tmp_path / name, 3, texts)
    build_student(tmp_path / "c", 4, texts)
    assert checkpoint_hash(tmp_path / "a") == checkpoint_hash(tmp_path / "b") != checkpoint_hash(tmp_path / "c")


def test_the_student_is_a_small_transformers_checkpoint(backbone):
    assert sum(p.numel() for p in backbone.model.parameters()) < 600_000
    tokenizer = backbone.processor.tokenizer
    ids = tokenizer(RESPONSE)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == RESPONSE, "the tags must survive decoding"
    assert ids.count(backbone.ids.gen) == 1


def test_missing_embedding_tokens_are_added_with_the_rows_that_the_released_code_copies(tmp_path):
    build_student(tmp_path, 0, [PROMPT, RESPONSE] * 20)
    model = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path)
    tokenizer = AutoProcessor.from_pretrained(tmp_path).tokenizer
    vocabulary = tokenizer.get_vocab()

    class Plain:
        """The same tokenizer before the embedding tokens were known, with Qwen's reference tokens."""

        def __init__(self):
            self.known = {k: v for k, v in vocabulary.items() if k not in (GEN_EMB, DISC_EMB)}
            self.known |= {"<|object_ref_start|>": 11, "<|object_ref_end|>": 12}

        def get_vocab(self):
            return dict(self.known)

        def add_tokens(self, tokens):
            self.known |= {str(t.content): vocabulary[t.content] for t in tokens}

        def __len__(self):
            return len(vocabulary)

    add_embedding_tokens(model, Plain(), Family.copied_from)
    table = model.get_input_embeddings().weight
    assert torch.equal(table[vocabulary[GEN_EMB]], table[12]) and torch.equal(table[vocabulary[DISC_EMB]], table[11])


def test_a_folder_without_a_checkpoint_is_a_fatal_error_that_says_where(tmp_path):
    with pytest.raises(Fatal, match=str(tmp_path)):
        load_backbone(str(tmp_path))
