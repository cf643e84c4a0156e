"""One HTTP call to a model server: aiohttp, each failure typed by what it means for the request and for the server.

Transient and its kinds (the same request may succeed later or elsewhere), BadInput (the request's own fault) and Fatal
(this server can answer nothing until a person acts). No message shows the secrets of an address.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import orjson

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
_REFUSED, _MISSING = {401, 403}, {404, 405}
_CONNECT_SECONDS = 15.0
# Shorter than any server's own: one that closes an idle connection just as a request is sent looks like a lost server.
_IDLE_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Remedies:
    """What a person does where a server refuses the key, has no such route or model, does not answer, or broke down."""

    key: str
    missing: str
    gone: str = ""
    broken: str = ""


class HttpClient:
    """Use as an async context manager. timeout_s: of a call, with its time in the server's queue."""

    def __init__(self, timeout_s: float, remedies: Remedies, headers: Mapping[str, str] | None = None) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_SECONDS)
        self._remedies = remedies
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> HttpClient:
        # The default limit of 100 connections would be the number of requests in flight.
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=_IDLE_SECONDS)
        self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(
        self, method: Literal["GET", "POST"], url: str, body: bytes | None = None, timeout_s: float | None = None
    ) -> bytes:
        """The answer's content. Raises Transient and its kinds, BadInput (`request_refused`) or Fatal."""
        assert self._session is not None, "use the client as a context manager"
        timeout = self._timeout if timeout_s is None else aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(method, url, data=body, timeout=timeout) as response:
                content = await response.read()
                if response.status == 200:
                    return content
                raise self._failure(response.status, content, response.headers.get("Retry-After", ""), safe_url(url))
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(f"Nothing answers at {safe_url(url)}", self._remedies.gone) from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, ConnectionError) as error:
            raise ServerLost(f"{safe_url(url)} went away before it answered", self._remedies.broken) from error
        except TimeoutError as error:
            raise Transient(f"No answer from {safe_url(url)} within {timeout.total:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Transient(f"{type(error).__name__} at {safe_url(url)}") from error

    def _failure(self, status: int, content: bytes, retry_after: str, where: str) -> Exception:
        text = content[:300].decode(errors="replace").replace("\n", " ")
        message = f"HTTP {status} from {where}: {text}"
        if status in _BUSY:
            return Busy(message, float(retry_after) if retry_after.isdecimal() else 0.0)
        if status >= 500:
            return ServerFailed(message, self._remedies.broken)
        if status in _REFUSED:
            return Fatal(f"HTTP {status}: {where} refuses the key.", self._remedies.key)
        if status in _MISSING:
            return Fatal(message, self._remedies.missing)
        return BadInput("request_refused", f"HTTP {status}: {text}")


def parsed(content: bytes, url: str) -> Any:
    """The JSON of an answer. Raises BadOutput."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise BadOutput(f"The answer of {safe_url(url)} is not JSON") from error
