"""LoRA adapters on the decoder's projections, with the rows of the embedding tokens (peft), as plain weights.

Guarantee: merging is arithmetic on a copy of the weights, W + alpha / rank * B A and the trained token rows; the model
in training is not touched, so it goes on exactly as it would have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

if TYPE_CHECKING:
    # Whoever only reads checkpoints needs no peft.
    from peft import LoraConfig

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_NAME = "default"
_EMBEDDINGS, _HEAD = "embed_tokens", "lm_head"
_WEIGHTS = "adapter_model.safetensors"
# What a `PeftModel` puts before every name; adapters are injected here without one.
_WRAPPED = "base_model.model."


def inject_lora(
    model: Any, rank: int, alpha: float, dropout: float, targets: Iterable[str], tokens: Iterable[int]
) -> LoraConfig:
    """Put adapters into the decoder in place; only they and the rows of `tokens` are trained then."""
    from peft import LoraConfig, inject_adapter_in_model

    tables = (_EMBEDDINGS,) if model.config.tie_word_embeddings else (_EMBEDDINGS, _HEAD)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=rf".*language_model\..*\.({'|'.join(targets)})",
        # peft follows tied weights by itself; a head of its own must learn to write the tokens too.
        trainable_token_indices={table: list(tokens) for table in tables},
    )
    config.base_model_name_or_path = model.name_or_path
    inject_adapter_in_model(config, model, _NAME)
    return config


def merged_weights(state: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """The weights of the plain model. state: of the model with adapters."""
    merged: dict[str, Tensor] = {}
    for name, weight in state.items():
        if ".lora_" in name or ".trainable_tokens_" in name:
            continue
        owner, _, rest = name.partition(".base_layer.")
        merged[f"{owner.removesuffix('.token_adapter')}.{rest}" if rest else name] = weight
        if rest == "weight":
            merged[f"{owner.removesuffix('.token_adapter')}.weight"] = _trained(state, owner, weight, config)
    return merged


def save_adapter(model: Any, config: LoraConfig, state: Mapping[str, Tensor], folder: Path) -> None:
    """The adapters alone, as peft's own files: what `PeftModel.from_pretrained` puts on the base checkpoint."""
    from peft import get_peft_model_state_dict

    config.save_pretrained(str(folder))
    kept = get_peft_model_state_dict(model, dict(state), _NAME, save_embedding_layers=False)
    weights = {f"{_WRAPPED}{name}": weight.detach().contiguous().cpu() for name, weight in kept.items()}
    save_file(weights, folder / _WEIGHTS)


def _trained(state: Mapping[str, Tensor], owner: str, weight: Tensor, config: LoraConfig) -> Tensor:
    rows = state.get(f"{owner}.trainable_tokens_delta.{_NAME}")
    if rows is not None:
        assert isinstance(config.trainable_token_indices, dict)
        places = torch.tensor(config.trainable_token_indices[_EMBEDDINGS], device=weight.device)
        return weight.index_copy(0, places, rows.to(weight))
    up, down = (state.get(f"{owner}.lora_{part}.{_NAME}.weight") for part in ("B", "A"))
    if up is None or down is None:
        return weight
    return weight + config.lora_alpha / config.r * (up.float() @ down.float()).to(weight)
