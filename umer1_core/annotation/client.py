"""One request to one server: aiohttp and orjson, each failure typed by what it means for the row and for the server.

Transient and its kinds (the same request may succeed later or elsewhere), BadInput (this row's own fault) and Fatal
(this server can answer nothing until a person acts). Keys are read from the environment and never enter a message.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from schemas.recipe import Annotation
from umer1_core.errors import (
    BadInput,
    BadOutput,
    Busy,
    Fatal,
    ServerFailed,
    ServerLost,
    Transient,
    Unreachable,
    safe_url,
)

_BUSY = {408, 409, 425, 429, 502, 503, 504}
_REFUSED = {401, 403}
_CONNECT_SECONDS = 15.0
# Shorter than any server's own: one that closes an idle connection just as a request is sent looks like a lost server.
_IDLE_SECONDS = 4.0


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
        self._timeout = aiohttp.ClientTimeout(total=annotation.request_timeout_s, sock_connect=_CONNECT_SECONDS)
        self._headers = {"Content-Type": "application/json"} | _authorization(annotation.api_key_env)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ChatClient:
        # The default limit of 100 connections would be the slot count of the whole run.
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=_IDLE_SECONDS)
        self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def complete(self, base_url: str, body: bytes) -> Reply:
        """One attempt at a chat completion. Raises Transient, BadInput or Fatal."""
        content = await self._call("POST", f"{base_url}/chat/completions", body, self._timeout)
        return _reply(_parse(content, base_url), self._model, base_url)

    async def served(self, base_url: str) -> dict[str, int]:
        """Names of the models that a server has, with their context lengths (0 where it does not say)."""
        body = _parse(await self.get(f"{base_url}/models"), base_url)
        try:
            return {str(item["id"]): int(item.get("max_model_len") or 0) for item in body["data"]}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadOutput(f"{safe_url(base_url)} gives no list of models") from error

    async def get(self, url: str, timeout_s: float = 10.0) -> bytes:
        return await self._call("GET", url, None, aiohttp.ClientTimeout(total=timeout_s))

    async def _call(self, method: str, url: str, body: bytes | None, timeout: aiohttp.ClientTimeout) -> bytes:
        assert self._session is not None, "use the client as a context manager"
        try:
            async with self._session.request(method, url, data=body, timeout=timeout) as response:
                content = await response.read()
                if response.status == 200:
                    return content
                raise _failure(response.status, content, response.headers.get("Retry-After", ""), safe_url(url))
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(f"nothing answers at {safe_url(url)}") from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, ConnectionError) as error:
            raise ServerLost(f"{safe_url(url)} went away before it answered") from error
        except TimeoutError as error:
            raise Transient(f"no answer from {safe_url(url)} within {timeout.total:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Transient(f"{type(error).__name__} at {safe_url(url)}") from error


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


def _failure(status: int, content: bytes, retry_after: str, where: str) -> Exception:
    text = content[:300].decode(errors="replace").replace("\n", " ")
    message = f"HTTP {status} from {where}: {text}"
    if status in _BUSY:
        return Busy(message, float(retry_after) if retry_after.isdecimal() else 0.0)
    if status >= 500:
        return ServerFailed(message)
    if status in _REFUSED:
        return Fatal(f"HTTP {status}: {where} refuses the key.", "Set the variable named in `annotation.api_key_env`.")
    if status == 404:
        return Fatal(message, "Check `annotation.endpoints` (ending in /v1) and `annotation.model`.")
    return BadInput("request_refused", f"HTTP {status}: {text}")


def _parse(content: bytes, base_url: str) -> dict[str, Any]:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise BadOutput(f"the answer of {safe_url(base_url)} is not JSON") from error
    if not isinstance(body, dict):
        raise BadOutput(f"the answer of {safe_url(base_url)} is no JSON object")
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
