"""Token ids of completions, and how many of them are reasoning: one encoding a completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from umer1_core.errors import RecipeError
from umer1_core.filtering.length import reasoning_span

TokenizerSource = Tokenizer | Callable[[], Tokenizer]
_TEXTS_AT_ONCE = 128  # each encoding holds its offsets too, about a hundred bytes a token


@dataclass(frozen=True, slots=True)
class Encoded:
    """ids of text i: `ids[offsets[i] : offsets[i + 1]]`; `reasoning`: how many of them start in its reasoning."""

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    reasoning: NDArray[np.int32]


def encode(texts: Sequence[str], tokenizer: Tokenizer) -> Encoded:
    """Encode without special tokens, on all cores (`tokenizers` has its own threads)."""
    ids: list[NDArray[np.int32]] = []
    reasoning: list[int] = []
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        part = texts[first : first + _TEXTS_AT_ONCE]
        for text, encoding in zip(part, tokenizer.encode_batch(part, add_special_tokens=False), strict=True):
            ids.append(np.array(encoding.ids, np.int32))
            start, end = reasoning_span(text)
            size = len(text)
            inside = _tokens_before(encoding, end, size) - _tokens_before(encoding, start, size) if end > start else 0
            reasoning.append(inside)
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    return Encoded(np.concatenate([np.empty(0, np.int32), *ids]), offsets, np.array(reasoning, np.int32))


def _tokens_before(encoding: Encoding, place: int, size: int) -> int:
    """How many tokens start before a character; what stands there may be white space that is in no token."""
    for character in range(place, size):
        token = encoding.char_to_token(character)
        span = None if token is None else encoding.token_to_chars(token)
        if token is not None and span is not None:
            return int(token) + (span[0] < place)
    return len(encoding)


def open_tokenizer(source: TokenizerSource) -> Tokenizer:
    return source if isinstance(source, Tokenizer) else source()


def tokenizer_identity(name_or_path: str) -> str:
    """What tells one tokenizer from another: the hash of its file, or its name on the hub."""
    file = _file(name_or_path)
    return blake3(file.read_bytes()).hexdigest()[:16] if file.is_file() else name_or_path


def load_tokenizer(name_or_path: str) -> Tokenizer:
    """A tokenizer from its tokenizer.json, a model's folder, or the hub. Raises RecipeError."""
    path, file = Path(name_or_path).expanduser(), _file(name_or_path)
    if path.is_dir() and not file.is_file():
        raise RecipeError(
            f"filters.tokenizer: {path} has no tokenizer.json.",
            "Name a model's folder that has one, a tokenizer.json, or a model on the hub.",
        )
    try:
        return Tokenizer.from_file(str(file)) if file.is_file() else Tokenizer.from_pretrained(name_or_path)
    except Exception as error:  # tokenizers raises nothing more specific
        raise RecipeError(
            f"filters.tokenizer: no tokenizer can be read from {name_or_path}: {error}.",
            "Name a model's folder, a tokenizer.json, or a model that this machine can download from the hub.",
        ) from error


def _file(name_or_path: str) -> Path:
    path = Path(name_or_path).expanduser()
    return path / "tokenizer.json" if path.is_dir() else path
