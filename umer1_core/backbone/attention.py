"""Attention inside the segments of one line, as a back-end of transformers' own attention interface.

Guarantees: a token sees its own segment alone; no [length, length] mask is ever built for a packed line; without
segments it is the library's sdpa with the library's masks (padding, generation with a cache). Text hands over
`cu_seq_lens_q`; so do the vision towers, one segment a picture or window, because the name holds "flash".
On a GPU in half precision it is one flash kernel for all segments; elsewhere, segments of one length run together.
A line whose rollouts share prefixes hands over `shared_prefix` instead: segments that see their prefix as well.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from umer1_core.backbone.prefix_layout import Block, SharedPrefix

ATTENTION = "umer1_flash_segments"
_HALF = (torch.bfloat16, torch.float16)
_AMPERE, _WIDEST_HEAD = (8, 0), 256


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    shared_prefix: SharedPrefix | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """query: [lines, heads, length, width]; key, value: the same with the key heads → [lines, length, heads, width].

    cu_seq_lens_q: int32 [segments + 1], where each segment of the one line starts, and its end; max_length_q: the
    longest segment. shared_prefix: who sees whom in a line of shared prefixes; the vision towers are handed it along
    with their own segments, which are what counts there. Raises ValueError when a packed line comes without either,
    or with a sliding window.
    """
    if cu_seq_lens_q is None and shared_prefix is None:
        if attention_mask is not None and attention_mask.numel() == 0:
            raise ValueError(
                "A packed line needs cu_seq_lens_q or shared_prefix: else its sequences would see each other."
            )
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal
        )
    if sliding_window is not None:
        raise ValueError("Packed lines have no sliding window: load the model with another attention.")
    if cu_seq_lens_q is None:
        assert shared_prefix is not None
        return _with_shared_prefixes(module, query, key, value, shared_prefix, dropout, scaling), None
    causal = bool(module.is_causal) if is_causal is None else is_causal
    return _in_segments(module, query, key, value, cu_seq_lens_q, max_length_q, dropout, scaling, causal), None


def segment_mask(
    *,
    q_length: int,
    attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **others: Any,
) -> Tensor | None:
    """The library's sdpa mask; for a line in which the library finds segments, an empty mark instead.

    Who sees whom comes as `cu_seq_lens_q` or `shared_prefix`; the mark lets `segment_attention` refuse a line without.
    """
    if attention_mask is None and not allow_is_causal_skip and not use_vmap and q_length > 1:
        return torch.empty(0, device=device)
    return sdpa_mask(
        q_length=q_length,
        attention_mask=attention_mask,
        allow_is_causal_skip=allow_is_causal_skip,
        use_vmap=use_vmap,
        device=device,
        **others,
    )


def _in_segments(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    longest: int | None,
    dropout: float,
    scaling: float | None,
    causal: bool,
) -> Tensor:
    if dropout == 0 and _has_kernel(value):
        return _in_one_kernel(query, key, value, bounds, longest, scaling, causal)
    return _by_length(module, query, key, value, bounds, dropout, scaling, causal)


def _with_shared_prefixes(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SharedPrefix,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """Prefixes as segments of their own, then the blocks of what follows them."""
    # Rotary embeddings leave query and key in fp32 under autocast: half of what is gathered would be for nothing.
    query, key = query.to(value.dtype), key.to(value.dtype)
    made = []
    if len(layout.prefixes):
        parts = [tensor.index_select(2, layout.prefixes) for tensor in (query, key, value)]
        made.append(
            _in_segments(
                module, parts[0], parts[1], parts[2], layout.bounds, layout.longest, dropout, scaling, causal=True
            )[0]
        )
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    made += [_of_block(module, rows[0], rows[1], rows[2], block, dropout, scaling) for block in layout.blocks]
    return torch.cat(made).index_select(0, layout.back).unsqueeze(0)


def _of_block(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, block: Block, dropout: float, scaling: float | None
) -> Tensor:
    """query, key, value: [line, heads, width] → [rows * longest, heads, width]."""
    taken = [(query, block.queries), (key, block.keys), (value, block.keys)]
    parts = [tensor.index_select(0, places).unflatten(0, (block.rows, -1)).transpose(1, 2) for tensor, places in taken]
    made, _ = sdpa_attention_forward(
        module, parts[0], parts[1], parts[2], block.mask, dropout=dropout, scaling=scaling, is_causal=False
    )
    return made.flatten(0, 1)


def _has_kernel(value: Tensor) -> bool:
    """Flash attention: half precision on an Ampere GPU or later, heads of a width that it takes."""
    if not value.is_cuda or value.dtype not in _HALF or value.shape[-1] % 8 or value.shape[-1] > _WIDEST_HEAD:
        return False
    return torch.cuda.get_device_capability(value.device) >= _AMPERE


def _in_one_kernel(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int | None, scaling: float | None, causal: bool
) -> Tensor:
    """Rotary embeddings leave query and key in fp32 under autocast; the kernel takes one half precision."""
    longest = int(bounds.diff().max()) if longest is None else longest
    rows = [tensor[0].transpose(0, 1).to(value.dtype) for tensor in (query, key, value)]
    mixed = varlen_attn(
        rows[0],
        rows[1],
        rows[2],
        bounds,
        bounds,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(mixed, Tensor)
    return mixed.unsqueeze(0)


def _by_length(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    dropout: float,
    scaling: float | None,
    causal: bool,
) -> Tensor:
    starts_of = _starts_by_length(bounds)
    order = torch.cat([_places(length, starts) for length, starts in starts_of.items()]).to(query.device)
    query, key, value = (tensor[0].index_select(1, order) for tensor in (query, key, value))
    mixed, first = [], 0
    for length, starts in starts_of.items():
        last = first + length * len(starts)
        group = [
            tensor[:, first:last].unflatten(1, (len(starts), length)).transpose(0, 1) for tensor in (query, key, value)
        ]
        made, _ = sdpa_attention_forward(
            module, group[0], group[1], group[2], None, dropout=dropout, scaling=scaling, is_causal=causal
        )
        mixed.append(made.flatten(0, 1))
        first = last
    return torch.cat(mixed).index_select(0, order.argsort()).unsqueeze(0)


def _starts_by_length(bounds: Tensor) -> dict[int, list[int]]:
    edges = bounds.tolist()
    starts_of: dict[int, list[int]] = defaultdict(list)
    for start, end in pairwise(edges):
        if end > start:
            starts_of[end - start].append(start)
    return starts_of


def _places(length: int, starts: list[int]) -> Tensor:
    """The places of all segments of one length, one after the other: [segments * length]."""
    return (torch.tensor(starts).unsqueeze(1) + torch.arange(length)).flatten()


AttentionInterface.register(ATTENTION, segment_attention)
AttentionMaskInterface.register(ATTENTION, segment_mask)
