"""Several sequences in one line: the same embeddings and gradients as alone, and no way to cross over unnoticed."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from tests.backbone.families import embeddings, fresh, furthest, gradients, mixed_rows, separate
from tests.backbone.mrope import original_positions
from umer1_core.backbone import attention
from umer1_core.backbone.attention import segment_attention, segment_mask
from umer1_core.backbone.collate import IGNORED, Row, collate
from umer1_core.backbone.forward import hidden_states
from umer1_core.backbone.positions import read_embeddings


@pytest.fixture(scope="module")
def backbone():
    return fresh()


@pytest.fixture(scope="module")
def rows(backbone, tmp_path_factory):
    return mixed_rows(backbone, tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def alone(backbone, rows):
    with torch.no_grad():
        return separate(backbone, rows)


def line_states(backbone, batch, rows_of_ids, **segments):
    """The states of a packed line run through the model by hand."""
    text = torch.cat([torch.arange(end - start) for start, end in pairwise(batch.bounds)])
    positions = torch.cat([text.view(1, 1, -1), batch.positions])[4 - rows_of_ids :]
    with torch.no_grad():
        return backbone.model.model.language_model(
            inputs_embeds=backbone.model.get_input_embeddings()(batch.ids),
            position_ids=positions,
            use_cache=False,
            **segments,
        ).last_hidden_state


# -- the same as alone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["packed", "left", "right"])
def test_no_layout_changes_an_embedding(backbone, rows, alone, layout):
    with torch.no_grad():
        assert (embeddings(backbone, rows, layout) - alone).abs().max() < 1e-5


def test_the_librarys_own_attention_sees_the_same_segments(rows, alone):
    library = fresh(attention="sdpa")
    with torch.no_grad():
        assert (embeddings(library, rows, "packed") - alone).abs().max() < 1e-5
    packed = gradients(library, embeddings(library, rows, "packed"))
    assert furthest(packed, gradients(library, separate(library, rows))) < 1e-5


def test_gradient_checkpointing_changes_no_gradient(backbone, rows):
    wanted = gradients(backbone, embeddings(backbone, rows, "packed"))
    saving = fresh()
    saving.model.train().gradient_checkpointing_enable()
    assert furthest(gradients(saving, embeddings(saving, rows, "packed")), wanted) < 1e-5


def test_a_line_of_one_sequence_is_that_sequence(backbone, rows, alone):
    with torch.no_grad():
        assert (embeddings(backbone, rows[:1], "packed")[:, 0] - alone[:, 0]).abs().max() < 1e-5


def test_attention_dropout_is_drawn_anew_and_replayed_by_the_seed(rows):
    dropping = fresh(dropout=0.3)
    dropping.model.train()
    made = []
    with torch.no_grad():
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            made.append(embeddings(dropping, rows, "packed"))
    assert torch.equal(made[0], made[1]) and (made[0] - made[2]).abs().max() > 1e-3
    dropping.model.eval()
    with torch.no_grad():
        assert torch.equal(embeddings(dropping, rows, "packed"), embeddings(dropping, rows, "packed"))


# -- negative controls -----------------------------------------------------------------------------------------------


def test_without_bounds_the_sequences_see_each_other(backbone, rows, alone):
    batch = replace(collate(rows, backbone.ids, backbone.device, "packed"), bounds=None)
    with torch.no_grad():
        hidden = hidden_states(backbone, batch)
    mixed = read_embeddings(hidden, batch.ids, backbone.ids.gen, batch.assistant).vectors
    assert (mixed[0] - alone[0, 0]).abs().max() < 1e-5 and (mixed[1:] - alone[0, 1:]).abs().max() > 1e-2


def test_segments_in_the_position_ids_alone_are_refused(backbone, rows):
    batch = collate(rows, backbone.ids, backbone.device, "packed")
    with pytest.raises(ValueError, match="would see each other"):
        line_states(backbone, batch, 4)


def test_three_rows_of_position_ids_give_the_librarys_attention_no_segments(rows):
    library = fresh(attention="sdpa")
    batch = collate(rows, library.ids, library.device, "packed")
    four, three = line_states(library, batch, 4), line_states(library, batch, 3)
    assert (four - three)[:, int(batch.bounds[1]) :].abs().max() > 1e-2


def test_a_sliding_window_is_refused():
    states = torch.zeros(1, 1, 4, 2)
    with pytest.raises(ValueError, match="sliding window"):
        segment_attention(
            torch.nn.Identity(), states, states, states, None, cu_seq_lens_q=torch.tensor([0, 4]), sliding_window=2
        )


# -- attention -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any), st.booleans(), st.sampled_from([1, 2, 4]))
def test_segments_attend_as_under_a_block_diagonal_mask(lengths, causal, key_heads):
    """Against one call with the [length, length] mask; heads share keys (GQA), the scale is not the usual one."""
    total = sum(lengths)
    torch.manual_seed(total)
    module = torch.nn.Identity()
    module.num_key_value_groups = 4 // key_heads
    query, key, value = (torch.randn(1, heads, total, 8) for heads in (4, key_heads, key_heads))
    owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    mask = owner.unsqueeze(0) == owner.unsqueeze(1)
    wanted = scaled_dot_product_attention(
        query, key, value, mask.tril() if causal else mask, scale=0.5, enable_gqa=True
    ).transpose(1, 2)
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    found, _ = segment_attention(module, query, key, value, None, scaling=0.5, cu_seq_lens_q=bounds, is_causal=causal)
    assert (found - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("causal", [True, False])
def test_the_gpu_kernel_is_called_with_what_it_takes(monkeypatch, causal):
    """A stand-in with the kernel's signature, run segment by segment on the CPU."""

    def kernel(query, key, value, starts, _, longest, __, *, scale, window_size, enable_gqa):
        assert {query.dtype, key.dtype, value.dtype} == {torch.bfloat16} and longest == 5
        assert enable_gqa and window_size == ((-1, 0) if causal else (-1, -1))
        parts = [
            scaled_dot_product_attention(
                *(tensor[start:end].transpose(0, 1) for tensor in (query, key, value)),
                scale=scale, is_causal=causal, enable_gqa=True,
            ).transpose(0, 1)
            for start, end in pairwise(starts)
        ]  # fmt: skip
        return torch.cat(parts)

    monkeypatch.setattr(attention, "varlen_attn", kernel)
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 8, 16), torch.randn(1, 2, 8, 16), torch.randn(1, 2, 8, 16)
    bounds, module = torch.tensor([0, 3, 8], dtype=torch.int32), torch.nn.Identity()
    module.num_key_value_groups = 2
    # Under autocast the rotary embedding leaves query and key in fp32.
    found = attention._in_one_kernel(query, key, value.bfloat16(), bounds, None, 0.5, causal)
    wanted, _ = segment_attention(module, query, key, value, None, scaling=0.5, cu_seq_lens_q=bounds, is_causal=causal)
    assert found.shape == wanted.shape and (found.float() - wanted).abs().max() < 5e-2


def test_no_mask_of_a_packed_line_is_built(backbone, rows, monkeypatch):
    """The library asks for one; what it gets holds nothing."""
    made = []

    def spy(**arguments):
        made.append(segment_mask(**arguments))
        return made[-1]

    monkeypatch.setitem(attention.AttentionMaskInterface._global_mapping, attention.ATTENTION, spy)
    with torch.no_grad():
        hidden_states(backbone, collate(rows, backbone.ids, backbone.device, "packed"))
        hidden_states(backbone, collate(rows, backbone.ids, backbone.device, "right"))
    assert made[0].numel() == 0 and made[1].shape[-2:] == (len(max(rows, key=len)),) * 2


# -- batches ---------------------------------------------------------------------------------------------------------


def test_positions_of_each_segment_are_those_of_its_sequence_alone(backbone, rows):
    batch = collate(rows, backbone.ids, backbone.device, "packed")
    for row, (start, end) in zip(rows, pairwise(batch.bounds.tolist()), strict=True):
        own = original_positions(backbone, [*row.prompt, *row.response], row.pixels)
        assert torch.equal(batch.positions[:, 0, start:end], own)


@pytest.mark.parametrize("layout", ["packed", "left", "right"])
def test_spans_and_labels_are_those_of_the_rows(backbone, rows, layout):
    batch = collate(rows, backbone.ids, backbone.device, layout)
    ids, labels = batch.ids.flatten().tolist(), batch.labels.flatten().tolist()
    for row, user, turn in zip(rows, batch.user.tolist(), batch.assistant.tolist(), strict=True):
        assert tuple(ids[slice(*user)]) == row.prompt and tuple(ids[slice(*turn)]) == row.response
        assert set(labels[slice(*user)]) == {IGNORED} and tuple(labels[slice(*turn)]) == row.response
    assert labels.count(IGNORED) == len(labels) - sum(len(row.response) for row in rows)
    assert batch.real == sum(map(len, rows)) == int(batch.mask.sum())


def test_packing_processes_no_padding(backbone, rows):
    packed, padded = (collate(rows, backbone.ids, backbone.device, layout) for layout in ("packed", "right"))
    assert packed.processed == packed.real == padded.real
    assert padded.processed == len(rows) * padded.longest > padded.real
    assert packed.bounds.dtype == torch.int32 and packed.bounds.diff().tolist() == [len(row) for row in rows]


@pytest.mark.parametrize("layout", ["packed", "right"])
def test_a_batch_without_rows_runs_and_has_no_embedding(backbone, layout):
    batch = collate([], backbone.ids, backbone.device, layout)
    with torch.no_grad():
        hidden = hidden_states(backbone, batch)
    reading = read_embeddings(hidden, batch.ids, backbone.ids.gen, batch.assistant)
    assert batch.real == 0 and batch.processed == 1 and torch.isfinite(hidden).all()
    assert reading.vectors.shape == (0, hidden.shape[-1]) and reading.statuses == ()


@given(
    st.lists(st.tuples(st.lists(st.integers(1, 3), max_size=4), st.lists(st.integers(1, 3), max_size=4)), max_size=5)
)
def test_reading_finds_the_last_token_of_each_span_wherever_rows_stand(turns):
    """Against a search row by row. Token 3 is the one looked for; padding is 3 too, and must not be read."""
    rows = [
        Row((1, *prompt), tuple(turn), (), torch.arange(1 + len(prompt) + len(turn)).expand(3, -1))
        for prompt, turn in turns
    ]
    ids = fresh_ids()
    for layout in ("packed", "left", "right"):
        batch = collate(rows, ids, torch.device("cpu"), layout)
        hidden = torch.arange(1, batch.processed + 1).view(*batch.ids.shape, 1) * torch.tensor([1.0, 0.0])
        hidden[..., 1] = 1
        for spans, parts in ((batch.user, [r.prompt for r in rows]), (batch.assistant, [r.response for r in rows])):
            reading = read_embeddings(hidden, batch.ids, 3, spans)
            for vector, status, start, part in zip(
                reading.vectors, reading.statuses, spans[:, 0].tolist(), parts, strict=True
            ):
                assert (status == "ok") == (3 in part)
                place = start + len(part) - 1 - part[::-1].index(3) if 3 in part else None
                wanted = torch.zeros(2) if place is None else torch.tensor([place + 1.0, 1.0])
                assert torch.allclose(vector, wanted / wanted.norm().clamp(min=1), atol=1e-6)


def fresh_ids():
    from umer1_core.backbone.model import TokenIds

    return TokenIds(gen=3, disc=2, image=90, video=91, end_of_turn=92, pad=3)
