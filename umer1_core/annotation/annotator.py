"""Who annotates and how it is asked: the chat request for a side, and the fingerprint under which answers are reused.

The request is UME-R1 appendix D's: media first, then the side's text and the annotation prompt, one user turn. Bodies
are spliced from bytes: a picture's base64 never passes through a JSON encoder or a str.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
from blake3 import blake3

from schemas.recipe import Annotation, Completion
from umer1_core.media import data_url, file_url
from umer1_core.pairs import Side
from umer1_core.recipes import locate_model
from umer1_core.store import fingerprint
from umer1_core.template import ANNOTATION_PROMPT_VERSION, annotation_text

_HASHED_WHOLE = 64 << 20  # larger files count by name and size: hashing 18 GB at every start would cost minutes
_MEDIA_PART = {
    "image": b'{"type":"image_url","image_url":{"url":"',
    "video": b'{"type":"video_url","video_url":{"url":"',
}


def chat_body(
    side: Side,
    annotation: Annotation,
    *,
    seed: int,
    temperature: float,
    by_reference: bool = False,
    max_tokens: int | None = None,
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    """The JSON body for /v1/chat/completions. Raises BadInput when the side's media cannot be read.

    by_reference: image files of this machine go as `file://`, for a server that may read them itself.
    extra: further fields of the request, as a probe needs them.
    """
    pieces = [b'{"messages":[{"role":"user","content":[']
    for item in side.media:
        url = (file_url(item) if by_reference else None) or data_url(item)
        pieces += _MEDIA_PART[item.kind], url, b'"}},'
    fields = _sampling(annotation, seed, temperature, max_tokens) | dict(extra or {})
    text = orjson.dumps(annotation_text(side.text))
    pieces += b'{"type":"text","text":', text, b"}]}],", orjson.dumps(fields)[1:]
    return b"".join(pieces)


def _sampling(annotation: Annotation, seed: int, temperature: float, max_tokens: int | None) -> dict[str, Any]:
    """What is not asked for is not sent: servers other than vLLM refuse its fields."""
    fields: dict[str, Any] = {
        "model": annotation.model,
        "temperature": temperature,
        "top_p": annotation.completion.top_p,
        "max_tokens": max_tokens or annotation.completion.max_tokens,
        "seed": seed,
        # The tags and box tokens must reach us as text; the parser depends on them.
        "skip_special_tokens": False,
    }
    if stop := annotation.stop_loops:
        fields["repetition_detection"] = {
            "max_pattern_size": stop.max_period,
            "min_pattern_size": stop.min_period,
            "min_count": stop.min_count,
        }
    if annotation.thinking_budget is not None:
        fields["thinking_token_budget"] = annotation.thinking_budget
    return fields


def request_seed(side_key: str, completion: Completion, round_: int, sample: int = 0, attempt: int = 1) -> int:
    """A seed of its own for every side, round, sample and attempt: nobody pays for the same completion twice."""
    name = f"{side_key}:{completion.seed}:{round_}"
    if (sample, attempt) != (0, 1):
        name += f":{sample}:{attempt}"
    return int.from_bytes(blake3(name.encode()).digest()[:4], "big") >> 1


def annotator_fingerprint(annotation: Annotation) -> str:
    """Model (and its content, for a local folder), prompt version and sampling: what an answer depends on.

    A loop stop is left out: it shortens only completions that the repetition filter drops either way. So are samples
    and the ladder, which decide how often is asked, not what an answer is.
    """
    model = _folder_content(locate_model(annotation.model)) or annotation.model
    parts: list[Any] = [model, ANNOTATION_PROMPT_VERSION, annotation.completion.model_dump()]
    if annotation.thinking_budget is not None:
        parts.append({"thinking_budget": annotation.thinking_budget})
    return fingerprint(*parts)


def _folder_content(model: str) -> str:
    folder = Path(model)
    if not folder.is_dir():
        return ""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    stats = [p.stat() for p in files]
    return _content(folder, tuple((p.name, s.st_size, s.st_mtime_ns) for p, s in zip(files, stats, strict=True)))


@lru_cache(maxsize=16)
def _content(folder: Path, state: tuple[tuple[str, int, int], ...]) -> str:
    """Read once a process, and again when a file changes."""
    digest = blake3()
    for name, size, _ in state:
        digest.update(f"{name}:{size}:".encode())
        if size <= _HASHED_WHOLE:
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()
