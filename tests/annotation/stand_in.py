"""An OpenAI-compatible server with a set latency and set failures, run as a process of its own.

    python -m tests.annotation.stand_in --port 9000 --latency 0.05

Each completion echoes the side's text, so a test can tell whose it is. /stats counts what was received.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import orjson
from aiohttp import web


def application(latency: float, busy_every: int, refuse_word: str, drop_word: str) -> web.Application:
    seen: collections.Counter[str] = collections.Counter()
    counts = collections.Counter()

    async def chat(request: web.Request) -> web.Response:
        body = await request.json(loads=orjson.loads)
        text = body["messages"][0]["content"][-1]["text"].split("\n\n")[0]
        counts["requests"] += 1
        seen[text] += 1
        if refuse_word and refuse_word in text:
            return web.json_response({"error": {"message": "cannot read this input"}}, status=400)
        if drop_word and drop_word in text:
            request.transport.close()
            return web.Response()
        if busy_every and counts["requests"] % busy_every == 0:
            return web.json_response({"error": {"message": "overloaded"}}, status=503)
        await asyncio.sleep(latency)
        counts["answered"] += 1
        content = f"<think>Looking at {text}.</think><answer>{text}</answer>"
        return web.json_response(
            {
                "choices": [{"message": {"content": content}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 20},
            }
        )

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "stand-in"}]})

    async def stats(_: web.Request) -> web.Response:
        return web.json_response(dict(counts) | {"most_often": max(seen.values(), default=0), "distinct": len(seen)})

    app = web.Application(client_max_size=1 << 28)
    app.add_routes([web.post("/v1/chat/completions", chat), web.get("/v1/models", models), web.get("/stats", stats)])
    return app


@contextlib.contextmanager
def stand_in(latency: float = 0.0, busy_every: int = 0, refuse_word: str = "", drop_word: str = "") -> Iterator[str]:
    """The address of a running stand-in, ended with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.annotation.stand_in", "--port", str(port), "--latency", str(latency)]
    command += ["--busy-every", str(busy_every), "--refuse-word", refuse_word, "--drop-word", drop_word]
    server = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=2).close()
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


def read_stats(address: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{address}/stats", timeout=5) as response:
        return dict(orjson.loads(response.read()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--busy-every", type=int, default=0)
    parser.add_argument("--refuse-word", default="")
    parser.add_argument("--drop-word", default="")
    arguments = parser.parse_args()
    web.run_app(
        application(arguments.latency, arguments.busy_every, arguments.refuse_word, arguments.drop_word),
        host="127.0.0.1",
        port=arguments.port,
        print=None,
    )
