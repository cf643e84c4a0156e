"""What the engine asks of one server: a chat completion, and which models it serves; failures as in `http_client`.

Transient and its kinds (the same request may succeed later or elsewhere), BadInput (this row's own fault) and Fatal
(this server can answer nothing until a person acts). Keys are read from the environment and never enter a message.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from schemas.recipe import Annotation
from umer1_core.errors import BadOutput, Fatal, safe_url
from umer1_core.http_client import HttpClient, Remedies, parsed

_REMEDIES = Remedies(
    key="Set the variable named in `annotation.api_key_env`.",
    missing="Check `annotation.endpoints` (ending in /v1) and `annotation.model`.",
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion as the server gave it."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class ChatClient:
    """Use as an async context manager. Every `base_url` ends in /v1."""

    def __init__(self, annotation: Annotation) -> None:
        self._model = annotation.model
        self._http = HttpClient(annotation.request_timeout_s, _REMEDIES, _authorization(annotation.api_key_env))

    async def __aenter__(self) -> ChatClient:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._http.__aexit__(*raised)

    async def complete(self, base_url: str, body: bytes) -> Reply:
        """One attempt at a chat completion. Raises Transient, BadInput or Fatal."""
        content = await self._http.call("POST", f"{base_url}/chat/completions", body)
        return _reply(_parse(content, base_url), self._model, base_url)

    async def served(self, base_url: str) -> dict[str, int]:
        """Names of the models that a server has, with their context lengths (0 where it does not say)."""
        body = _parse(await self.get(f"{base_url}/models"), base_url)
        try:
            return {str(item["id"]): int(item.get("max_model_len") or 0) for item in body["data"]}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadOutput(f"{safe_url(base_url)} gives no list of models") from error

    async def get(self, url: str, timeout_s: float = 10.0) -> bytes:
        return await self._http.call("GET", url, timeout_s=timeout_s)


def _authorization(variable: str) -> dict[str, str]:
    if not variable:
        return {}
    key = os.environ.get(variable)
    if not key:
        raise Fatal(
            f"The recipe takes the annotator's key from ${variable}, which is not set.",
            f"export {variable}=… where the run starts, or clear `annotation.api_key_env`.",
        )
    return {"Authorization": f"Bearer {key}"}


def _parse(content: bytes, base_url: str) -> dict[str, Any]:
    body = parsed(content, base_url)
    if not isinstance(body, dict):
        raise BadOutput(f"The answer of {safe_url(base_url)} is no JSON object")
    return body


def _reply(body: dict[str, Any], model: str, base_url: str) -> Reply:
    try:
        choice, usage = body["choices"][0], body.get("usage") or {}
        message = choice["message"]
        if body.get("model", model) != model:
            raise Fatal(
                f"{safe_url(base_url)} answered for the model `{body['model']}`, not `{model}`.",
                "Set `annotation.model` to the name that the server uses, or take the server out of the endpoints.",
            )
        if message.get("reasoning") or message.get("reasoning_content"):
            raise Fatal(
                f"{safe_url(base_url)} splits reasoning from the answer, so the tags cannot be checked.",
                "Serve the annotator without --reasoning-parser.",
            )
        return Reply(
            message.get("content") or "",
            choice.get("finish_reason") or "",
            int(usage.get("prompt_tokens") or 0),
            int(usage.get("completion_tokens") or 0),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise BadOutput(f"the answer of {safe_url(base_url)} has no completion ({error!r})") from error
