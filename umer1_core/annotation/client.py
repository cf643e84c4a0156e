"""The chat client: aiohttp and orjson over any number of endpoints, each failure one of four kinds.

Transient (retried), BadInput (this row's own fault), a bad completion (kept, judged by the filters) and Fatal (nothing
can succeed until a person acts). Keys are read from the environment and never enter a message.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from schemas.recipe import Annotation
from umer1_core.errors import BadInput, Fatal, ServerLost, Transient, safe_url

_BUSY = {408, 409, 425, 429, 500, 502, 503, 504}
_REFUSED = {401, 403}


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion as the server gave it."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class ChatClient:
    """Sends each request to the endpoint with the fewest in flight. Use as an async context manager."""

    def __init__(self, endpoints: list[str], annotation: Annotation) -> None:
        self._model = annotation.model
        self._in_flight = {endpoint.rstrip("/"): 0 for endpoint in endpoints}
        self._timeout = aiohttp.ClientTimeout(total=annotation.request_timeout_s, sock_connect=15)
        self._headers = {"Content-Type": "application/json"} | _authorization(annotation.api_key_env)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ChatClient:
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)
        self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def endpoints(self) -> list[str]:
        return list(self._in_flight)

    async def check(self, patience_s: float) -> None:
        """Every endpoint answers within patience_s and serves the model. Raises Fatal: which, and the remedy."""
        deadline = time.monotonic() + patience_s
        for endpoint in self._in_flight:
            names = await self._served_models(endpoint, deadline)
            if self._model not in names:
                raise Fatal(
                    f"The annotator at {safe_url(endpoint)} serves {', '.join(names) or 'no model'}, "
                    f"not `{self._model}`.",
                    "Set `annotation.model` to the name that the server uses.",
                )

    async def _served_models(self, endpoint: str, deadline: float) -> list[str]:
        while True:
            try:
                body = await self._call("GET", f"{endpoint}/models", None)
                return [str(item.get("id")) for item in body.get("data", [])]
            except (Transient, BadInput) as error:
                if time.monotonic() > deadline:
                    raise Fatal(
                        f"The annotator at {safe_url(endpoint)} does not answer ({error}).",
                        "Start it, or correct `annotation.endpoints` in the recipe; then run the same command.",
                    ) from error
                await asyncio.sleep(1.0)

    async def complete(self, request: dict[str, Any]) -> Reply:
        """One attempt. Raises Transient, BadInput or Fatal."""
        endpoint = min(self._in_flight, key=self._in_flight.__getitem__)
        self._in_flight[endpoint] += 1
        try:
            return _reply(await self._call("POST", f"{endpoint}/chat/completions", orjson.dumps(request)))
        finally:
            self._in_flight[endpoint] -= 1

    async def _call(self, method: str, url: str, body: bytes | None) -> dict[str, Any]:
        assert self._session is not None
        try:
            async with self._session.request(method, url, data=body) as response:
                content = await response.read()
                if response.status == 200:
                    return dict(orjson.loads(content))
                raise _failure(response.status, content, safe_url(url))
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, ConnectionResetError) as error:
            raise ServerLost(f"server_lost: {safe_url(url)} went away before it answered") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Transient(f"{type(error).__name__} at {safe_url(url)}") from error
        except TimeoutError as error:
            raise Transient(f"no answer from {safe_url(url)} within {self._timeout.total:g} s") from error
        except orjson.JSONDecodeError as error:
            raise Transient(f"the answer of {safe_url(url)} is not JSON") from error


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


def _failure(status: int, content: bytes, where: str) -> Exception:
    text = content[:300].decode(errors="replace").replace("\n", " ")
    if status in _BUSY:
        return Transient(f"HTTP {status} from {where}: {text}")
    if status in _REFUSED:
        return Fatal(f"HTTP {status}: {where} refuses the key.", "Set the variable named in `annotation.api_key_env`.")
    if status == 404:
        return Fatal(f"HTTP 404 from {where}: {text}", "Check `annotation.endpoints` (ending in /v1) and `model`.")
    return BadInput("request_refused", f"HTTP {status}: {text}")


def _reply(body: dict[str, Any]) -> Reply:
    try:
        choice, usage = body["choices"][0], body.get("usage") or {}
        message = choice["message"]
        if message.get("reasoning") or message.get("reasoning_content"):
            raise Fatal(
                "The server splits reasoning from the answer, so the tags cannot be checked.",
                "Serve the annotator without --reasoning-parser.",
            )
        return Reply(
            message.get("content") or "",
            choice.get("finish_reason") or "",
            int(usage.get("prompt_tokens") or 0),
            int(usage.get("completion_tokens") or 0),
        )
    except (KeyError, IndexError, TypeError) as error:
        raise Transient(f"the server's answer has no completion ({error!r})") from error
