"""One call to a vLLM server: aiohttp and orjson, each failure typed by what it means for the request."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import aiohttp
import orjson

from umer1_core.errors import BadInput, BadOutput, Busy, Fatal, ServerFailed, ServerLost, Transient, Unreachable

_BUSY = {408, 409, 425, 429, 502, 503, 504}
_CONNECT_SECONDS = 15.0
# Shorter than any server's own: one that closes an idle connection just as a request is sent looks like a lost server.
_IDLE_SECONDS = 4.0


class Patience:
    """How long a server may be gone: from its first failure until it answers again, whatever is asked of it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._gone_since: float | None = None

    def answered(self) -> None:
        self._gone_since = None

    def failed(self, error: Transient) -> None:
        """Raises the error when it lasts for too long."""
        now = time.monotonic()
        self._gone_since = self._gone_since or now
        if now - self._gone_since >= self._seconds:
            raise error


class Server:
    """Use as an async context manager. url: where its routes begin, without /v1; timeout: of one call, in seconds."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url, self._timeout = url, timeout

    async def __aenter__(self) -> Server:
        # The default limit of 100 connections would be the number of requests in flight.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS)
        limits = aiohttp.ClientTimeout(total=self._timeout, sock_connect=_CONNECT_SECONDS)
        headers = {"Content-Type": "application/json"}
        self._session = aiohttp.ClientSession(connector=connector, timeout=limits, headers=headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, route: str) -> Any:
        """As `post`, without a body."""
        return await self._call("GET", route, None)

    async def post(self, route: str, body: bytes = b"{}") -> Any:
        """The answer's JSON; None where it is empty. Raises Transient and its kinds, BadInput or Fatal."""
        return await self._call("POST", route, body)

    async def _call(self, method: str, route: str, body: bytes | None) -> Any:
        where = self._url + route
        try:
            async with self._session.request(method, where, data=body) as response:
                content = await response.read()
                if response.status != 200:
                    raise _failure(response.status, content, response.headers.get("Retry-After", ""), where)
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(f"nothing answers at {where}", "Start the server again: deploy/rollouts.sh.") from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, ConnectionError) as error:
            raise ServerLost(f"{where} went away before it answered", "Look into the server's log.") from error
        except TimeoutError as error:
            raise Transient(f"no answer from {where} within {self._timeout:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Transient(f"{type(error).__name__} at {where}") from error
        try:
            return orjson.loads(content) if content else None
        except orjson.JSONDecodeError as error:
            raise BadOutput(f"the answer of {where} is not JSON") from error


def _failure(status: int, content: bytes, retry_after: str, where: str) -> Exception:
    text = content[:300].decode(errors="replace").replace("\n", " ")
    message = f"HTTP {status} from {where}: {text}"
    if status in _BUSY:
        return Busy(message, float(retry_after) if retry_after.isdecimal() else 0.0)
    if status >= 500:
        return ServerFailed(message, "Look into the server's log.")
    if status in (401, 403):
        return Fatal(f"HTTP {status}: {where} asks for a key.", "Serve rollouts without --api-key.")
    if status in (404, 405):
        return Fatal(
            f"HTTP {status}: there is no {where}.",
            "Check `grpo.server`, and start vLLM with VLLM_SERVER_DEV_MODE=1, as deploy/rollouts.sh does.",
        )
    return BadInput("request_refused", f"HTTP {status}: {text}")
