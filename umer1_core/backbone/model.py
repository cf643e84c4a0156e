"""A Qwen2-VL, Qwen2.5-VL or Qwen3-VL checkpoint with the two embedding tokens, on the best device there is.

Guarantees: token ids come from the tokenizer, never from a constant; new rows are copied from the rows the released
code copies (upstream-systems.md 2.3); pixel limits are those of the released training (2.5) and are saved along; what
is saved loads without peft, whatever was trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from blake3 import blake3
from tokenizers import AddedToken
from torch import Tensor
from transformers import AutoConfig, AutoProcessor

from umer1_core.backbone.attention import ATTENTION
from umer1_core.backbone.family import Family, family_of
from umer1_core.backbone.lora import PROJECTIONS, inject_lora, merged_weights, save_adapter
from umer1_core.errors import Fatal
from umer1_core.template import DISC_EMB, GEN_EMB

if TYPE_CHECKING:
    from peft import LoraConfig


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
    """A model `for conditional generation` with its processor; `dtype` is what the forward pass computes in.

    lora: how its adapters were made, where it has some.
    """

    model: Any
    processor: Any
    ids: TokenIds
    device: torch.device
    dtype: torch.dtype
    family: Family
    lora: LoraConfig | None = None

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """bf16 on a GPU, over fp32 weights; plain fp32 on the CPU."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            yield


def load_backbone(name: str, attention: str = ATTENTION) -> Backbone:
    """Load a checkpoint and make sure that it has both embedding tokens. Raises Fatal when it cannot be used.

    attention: another of transformers' back-ends, as `sdpa`; packed lines then build its [length, length] mask.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        kind = AutoConfig.from_pretrained(name).model_type
        processor = AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise Fatal(
            f"{name} is no usable checkpoint: {str(error).splitlines()[0]}", "Check `training.model`."
        ) from error
    family = family_of(kind, name)
    model: Any = family.model_class.from_pretrained(name, dtype=torch.float32)
    use_attention(model, attention)
    add_embedding_tokens(model, processor.tokenizer, family.copied_from)
    family.limit_pixels(processor)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model.to(device)
    return Backbone(model, processor, _token_ids(model, processor.tokenizer), device, dtype, family)


def use_attention(model: Any, attention: str) -> None:
    """Choose the attention of the decoder and the vision tower."""
    if attention != ATTENTION:
        model.set_attn_implementation(attention)
        return
    # `set_attn_implementation` would look for a flash package, since the name holds "flash".
    model.config._attn_implementation = attention


def add_embedding_tokens(model: Any, tokenizer: Any, copied_from: Mapping[str, str]) -> None:
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
            source = known.get(copied_from[token])
            for table in tables.values():
                table[known[token]] = table.mean(0) if source is None else table[source]


def freeze_vision(backbone: Backbone) -> None:
    """Freeze the vision tower but for its mergers, as released."""
    tower = backbone.model.model.visual
    tower.requires_grad_(False)
    for merger in backbone.family.mergers(tower):
        merger.requires_grad_(True)


def add_lora(
    backbone: Backbone, rank: int, alpha: float, dropout: float = 0.0, targets: Sequence[str] = PROJECTIONS
) -> Backbone:
    """The backbone with adapters in its decoder; the decoder's own weights are frozen.

    Trained are then the adapters, the rows of the two embedding tokens, and what was trained of the vision tower.
    """
    seen = [parameter for parameter in backbone.model.model.visual.parameters() if parameter.requires_grad]
    tokens = (backbone.ids.gen, backbone.ids.disc)
    config = inject_lora(backbone.model, rank, alpha, dropout, targets, tokens)
    for parameter in seen:
        parameter.requires_grad_(True)
    return replace(backbone, lora=config)


def save_backbone(backbone: Backbone, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """A normal transformers checkpoint, with adapters merged into it; beside it in `adapter/`, the adapters alone.

    state: the whole weights, where the model itself holds a part of them (sharded training).
    """
    model, lora = backbone.model, backbone.lora
    if lora is not None:
        state = model.state_dict() if state is None else state
        save_adapter(model, lora, state, folder / "adapter")
        state = merged_weights(state, lora)
    if state is None:
        model.save_pretrained(folder)
    else:
        tied = model.config.tie_word_embeddings
        kept = {name: weight for name, weight in state.items() if not (tied and name.startswith("lm_head."))}
        _without_weights(model).save_pretrained(folder, state_dict=kept)
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


def _without_weights(model: Any) -> Any:
    """The plain model that `model` was before its adapters, for saving."""
    with torch.device("meta"):
        plain = type(model)(type(model.config).from_dict(model.config.to_dict()))
    plain.generation_config = model.generation_config
    return plain


def _token_ids(model: Any, tokenizer: Any) -> TokenIds:
    vocabulary = tokenizer.get_vocab()
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    config = model.config
    return TokenIds(vocabulary[GEN_EMB], vocabulary[DISC_EMB], config.image_token_id, config.video_token_id, end, pad)
