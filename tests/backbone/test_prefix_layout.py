"""Who sees whom where rollouts share a prefix, against the mask of the whole line."""

from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from umer1_core.backbone import attention
from umer1_core.backbone.attention import segment_attention
from umer1_core.backbone.prefix_layout import lay_out

CPU = torch.device("cpu")

_TREES = st.lists(st.tuples(st.integers(0, 6), st.lists(st.integers(1, 6), max_size=5)), min_size=1, max_size=4)


@given(_TREES.filter(lambda trees: any(p + sum(s) for p, s in trees)), st.sampled_from([1, 2, 4]))
def test_attention_is_that_under_the_mask_of_the_whole_line(trees, key_heads):
    """Against one call with the [line, line] mask; heads share keys (GQA), the scale is not the usual one."""
    mask = line_mask(trees)
    torch.manual_seed(len(mask))
    module = torch.nn.Identity()
    module.num_key_value_groups = 4 // key_heads
    query, key, value = (torch.randn(1, heads, len(mask), 8) for heads in (4, key_heads, key_heads))
    expected = scaled_dot_product_attention(query, key, value, mask, scale=0.5, enable_gqa=True).transpose(1, 2)
    found, _ = segment_attention(module, query, key, value, None, scaling=0.5, shared_prefix=lay_out(trees, CPU))
    assert found.shape == expected.shape and (found - expected).abs().max() < 1e-5


def line_mask(trees: list[tuple[int, list[int]]]) -> Tensor:
    """[line, line], by the definition: token by token."""
    tokens = [
        (group, part)
        for group, (prefix, segments) in enumerate(trees)
        for part, length in enumerate([prefix, *segments])
        for _ in range(length)
    ]
    return torch.tensor(
        [
            [key <= query and of == own_group and part in (0, own_part) for key, (of, part) in enumerate(tokens)]
            for query, (own_group, own_part) in enumerate(tokens)
        ]
    )


def test_segments_of_unlike_length_are_not_padded_to_each_other():
    """Eight short ones and a long one behind a long prefix, and a group of short ones behind a short prefix."""
    trees = [(600, [100] * 8 + [1_500]), (40, [120] * 8)]
    layout = lay_out(trees, CPU)
    own = sum(length * (prefix + length) for prefix, segments in trees for length in segments)
    padded = sum(len(block.queries) * len(block.keys) // block.rows for block in layout.blocks)
    line = list(accumulate(prefix + sum(segments) for prefix, segments in trees))[-1]
    assert padded < 1.3 * own < 0.5 * line**2
    assert sum(block.mask.numel() for block in layout.blocks) < 0.4 * line**2


def test_a_sliding_window_is_refused():
    states = torch.zeros(1, 1, 4, 2)
    with pytest.raises(ValueError, match="sliding window"):
        segment_attention(
            torch.nn.Identity(),
            states,
            states,
            states,
            None,
            shared_prefix=lay_out([(2, [1, 1])], CPU),
            sliding_window=2,
        )


def test_the_gpu_kernel_takes_the_prefixes_and_gives_the_same(monkeypatch):
    """A stand-in with the kernel's signature; under autocast query and key come in fp32, values in half precision."""
    lengths = []

    def kernel(query, key, value, starts, _, longest, __, *, scale, window_size, enable_gqa):
        assert {query.dtype, key.dtype, value.dtype} == {torch.bfloat16} and enable_gqa and window_size == (-1, 0)
        lengths.extend(starts.diff().tolist())
        parts = [
            scaled_dot_product_attention(
                *(tensor[start:end].transpose(0, 1) for tensor in (query, key, value)),
                scale=scale, is_causal=True, enable_gqa=True,
            ).transpose(0, 1)
            for start, end in pairwise(starts)
        ]  # fmt: skip
        assert longest == max(lengths)
        return torch.cat(parts)

    monkeypatch.setattr(attention, "varlen_attn", kernel)
    monkeypatch.setattr(attention, "_has_kernel", lambda value: True)
    trees = [(5, [3, 2]), (0, [4]), (7, [1, 6])]
    mask, module = line_mask(trees), torch.nn.Identity()
    module.num_key_value_groups = 2
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, len(mask), 16) for heads in (4, 2, 2))
    layout = lay_out(trees, CPU)
    found, _ = segment_attention(module, query, key, value.bfloat16(), None, scaling=0.5, shared_prefix=layout)
    expected = scaled_dot_product_attention(query, key, value, mask, scale=0.5, enable_gqa=True).transpose(1, 2)
    assert lengths == [5, 7] and found.dtype == torch.bfloat16 and (found.float() - expected).abs().max() < 5e-2
