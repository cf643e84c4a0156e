"""Who annotates and how it is asked: the chat request for a side, and the fingerprint under which answers are reused.

The request is UME-R1 appendix D's: media first, then the side's text and the annotation prompt, one user turn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blake3 import blake3

from schemas.recipe import Annotation, Completion
from umer1_core.media import data_url
from umer1_core.pairs import Side
from umer1_core.recipes import locate_model
from umer1_core.store import fingerprint
from umer1_core.template import ANNOTATION_PROMPT_VERSION, annotation_text

_HASHED_WHOLE = 64 << 20  # larger files count by name and size: hashing 18 GB at every start would cost minutes


def chat_request(side: Side, model: str, completion: Completion, seed: int) -> dict[str, Any]:
    """The JSON body for /v1/chat/completions. Raises BadInput when the side's media cannot be read."""
    parts: list[dict[str, Any]] = []
    for item in side.media:
        kind = f"{item.kind}_url"
        parts.append({"type": kind, kind: {"url": data_url(item)}})
    parts.append({"type": "text", "text": annotation_text(side.text)})
    return {
        "model": model,
        "messages": [{"role": "user", "content": parts}],
        "temperature": completion.temperature,
        "top_p": completion.top_p,
        "max_tokens": completion.max_tokens,
        "seed": seed,
        # The tags and box tokens must reach us as text; the parser depends on them.
        "skip_special_tokens": False,
    }


def request_seed(side_key: str, completion: Completion, round_: int) -> int:
    """A seed of its own for every side and round: a re-annotation must not repeat the same completion."""
    digest = blake3(f"{side_key}:{completion.seed}:{round_}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def annotator_fingerprint(annotation: Annotation) -> str:
    """Model (and its content, for a local folder), prompt version and sampling: what an answer depends on."""
    model = _folder_content(locate_model(annotation.model)) or annotation.model
    return fingerprint(model, ANNOTATION_PROMPT_VERSION, annotation.completion.model_dump())


def _folder_content(model: str) -> str:
    folder = Path(model)
    if not folder.is_dir():
        return ""
    digest = blake3()
    for file in sorted(p for p in folder.iterdir() if p.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        if size <= _HASHED_WHOLE:
            digest.update(file.read_bytes())
    return digest.hexdigest()
