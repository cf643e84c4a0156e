"""How the trainer reaches a vLLM server: its routes, and for how long it may be gone; failures as in `http_client`."""

from __future__ import annotations

import time
from typing import Any

from umer1_core.errors import Transient
from umer1_core.http_client import HttpClient, Remedies, parsed

_REMEDIES = Remedies(
    key="Serve rollouts without --api-key.",
    missing="Check `grpo.server`, and start vLLM with VLLM_SERVER_DEV_MODE=1, as deploy/rollouts.sh does.",
    gone="Start the server again: deploy/rollouts.sh.",
    broken="Look into the server's log.",
)


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
        self._url, self._http = url, HttpClient(timeout, _REMEDIES)

    async def __aenter__(self) -> Server:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._http.__aexit__(*raised)

    async def get(self, route: str) -> Any:
        """The answer's JSON. Raises Transient and its kinds, BadInput or Fatal."""
        where = self._url + route
        return parsed(await self._http.call("GET", where), where)

    async def post(self, route: str, body: bytes = b"{}") -> Any:
        """As `get`; None where the answer is empty."""
        where = self._url + route
        content = await self._http.call("POST", where, body)
        return parsed(content, where) if content else None
