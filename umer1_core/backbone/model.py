"""A Qwen2-VL checkpoint with the two embedding tokens, from a folder or the hub, on the best device there is.

Guarantees: token ids come from the tokenizer, never from a constant; new rows are copied from the rows the released
code copies (upstream-systems.md 2.3); pixel limits are those of the released training (2.5) and are saved along.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from tokenizers import AddedToken
from transformers import AutoConfig, AutoProcessor, Qwen2VLForConditionalGeneration

from umer1_core.errors import Fatal
from umer1_core.template import DISC_EMB, GEN_EMB

# Rows that the released code copies: `<gen_emb>` from the end, `<disc_emb>` from the start of an object reference.
_COPIED_FROM = {GEN_EMB: "<|object_ref_end|>", DISC_EMB: "<|object_ref_start|>"}
_MAX_IMAGE_PIXELS = 2_359_296
_MAX_FRAME_PIXELS, _MIN_FRAME_PIXELS = 32 * 28 * 28, 4 * 28 * 28


@dataclass(frozen=True, slots=True)
class TokenIds:
    """The ids that matter, as the checkpoint's own tokenizer has them."""

    gen: int
    disc: int
    image: int
    video: int
    end_of_turn: int
    pad: int


@dataclass(frozen=True, slots=True)
class Backbone:
    """A `Qwen2VLForConditionalGeneration` with its processor; `dtype` is what the forward pass computes in."""

    model: Any
    processor: Any
    ids: TokenIds
    device: torch.device
    dtype: torch.dtype

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """bf16 on a GPU, over fp32 weights; plain fp32 on the CPU."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            yield


def load_backbone(name: str) -> Backbone:
    """Load a checkpoint and make sure that it has both embedding tokens. Raises Fatal when it cannot be used."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        kind = AutoConfig.from_pretrained(name).model_type
        processor = AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise Fatal(
            f"{name} is no usable checkpoint: {str(error).splitlines()[0]}", "Check `training.model`."
        ) from error
    if kind != "qwen2_vl":
        raise Fatal(f"{name} is a {kind} model.", "Set `training.model` to a Qwen2-VL checkpoint or `miniature`.")
    model: Any = Qwen2VLForConditionalGeneration.from_pretrained(name, dtype=torch.float32)
    add_embedding_tokens(model, processor.tokenizer)
    limit_pixels(processor)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model.to(device)
    return Backbone(model, processor, _token_ids(model, processor.tokenizer), device, dtype)


def add_embedding_tokens(model: Any, tokenizer: Any) -> None:
    """Add `<gen_emb>` and `<disc_emb>` where they are missing, as ordinary tokens, with copied rows."""
    missing = [token for token in (GEN_EMB, DISC_EMB) if token not in tokenizer.get_vocab()]
    if not missing:
        return
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in missing])
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    known = tokenizer.get_vocab()
    tables = {id(w): w for w in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}
    with torch.no_grad():
        for token in missing:
            source = known.get(_COPIED_FROM[token])
            for table in tables.values():
                table[known[token]] = table.mean(0) if source is None else table[source]


def limit_pixels(processor: Any) -> None:
    """Cap pictures and frames as the released training does; a checkpoint with smaller limits keeps its own."""
    image, video = processor.image_processor.size, processor.video_processor.size
    image["longest_edge"] = min(image["longest_edge"], _MAX_IMAGE_PIXELS)
    video["longest_edge"] = min(video["longest_edge"], _MAX_FRAME_PIXELS)
    video["shortest_edge"] = min(video["shortest_edge"], _MIN_FRAME_PIXELS)


def save_backbone(backbone: Backbone, folder: Path) -> None:
    """A normal transformers checkpoint."""
    backbone.model.save_pretrained(folder)
    backbone.processor.save_pretrained(folder)


def checkpoint_hash(folder: str | Path) -> str:
    """The identity of a checkpoint on disk: weights, configuration, tokenizer. A hub name is its own identity."""
    path = Path(folder)
    if not path.is_dir():
        return blake3(str(folder).encode()).hexdigest()[:16]
    digest = blake3()
    for file in sorted([*path.glob("*.safetensors"), *path.glob("*.json"), *path.glob("*.jinja")]):
        digest.update(file.name.encode())
        digest.update_mmap(file)
    return digest.hexdigest()[:16]


def _token_ids(model: Any, tokenizer: Any) -> TokenIds:
    vocabulary = tokenizer.get_vocab()
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    config = model.config
    return TokenIds(vocabulary[GEN_EMB], vocabulary[DISC_EMB], config.image_token_id, config.video_token_id, end, pad)
