"""What the stand-in answers: completions, vLLM's metrics page, and each kind of bad answer."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import orjson

MODEL = "stand-in"


class Wire(Protocol):
    """What a bad answer needs of a connection."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop

    def send(
        self, body: bytes, close: bool = False, status: int = 200, content_type: str = "application/json"
    ) -> None: ...

    def drip(self) -> None: ...


def completion(
    text: str,
    content: str = "",
    finish_reason: str = "stop",
    model: str = MODEL,
    usage: bool = True,
    length: int = 0,
    media: int = 0,
) -> bytes:
    """A chat completion in the form OpenAI's API gives it; without `content` one of the annotation's form."""
    content = content or f"<think>Looking at {text}. {_words(length)}</think><answer>{text}</answer>"
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    prompt = 10 + 64 * media  # a server whose prompts do not grow with their media does not look at them
    counts = {"usage": {"prompt_tokens": prompt, "completion_tokens": 20, "total_tokens": prompt + 20}} if usage else {}
    return orjson.dumps(
        {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]} | counts
    )


@lru_cache
def _words(length: int) -> str:
    """Different words, so that nobody takes them for a loop."""
    return " ".join(f"w{i}" for i in range(length // 5))


def _reset(wire: Wire, text: str, close: bool) -> None:
    """A RST in the middle of the body: half of it is sent, and the socket closes without lingering."""
    body = completion(text)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    wire.transport.write(head.encode() + body[: len(body) // 2])
    plain: socket.socket = wire.transport.get_extra_info("socket")
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.loop.call_later(0.05, wire.transport.abort)


def _drip(wire: Wire, text: str, close: bool) -> None:
    wire.transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n")
    wire.drip()


FAULTS: dict[str, Callable[[Wire, str, bool], None]] = {
    "reset": _reset,
    "drop": lambda wire, text, close: wire.transport.abort(),
    "hang": lambda wire, text, close: None,
    "drip": _drip,
    "invalid_json": lambda wire, text, close: wire.send(b'{"choices": [{"message"', close),
    "no_choices": lambda wire, text, close: wire.send(b'{"model": "stand-in", "choices": []}', close),
    "html": lambda wire, text, close: wire.send(
        b"<!doctype html><title>Sign in</title>", close, content_type="text/html"
    ),
    "no_usage": lambda wire, text, close: wire.send(completion(text, usage=False), close),
    "other_model": lambda wire, text, close: wire.send(completion(text, model="another/model"), close),
    "malformed": lambda wire, text, close: wire.send(completion(text, content=f"I see {text}."), close),
    "cut": lambda wire, text, close: wire.send(completion(text, f"<think>Looking at {text}", "length"), close),
    "repetition": lambda wire, text, close: wire.send(completion(text, "<think>" + "so " * 40, "repetition"), close),
}


def metrics(running: int, waiting: int, slots: int) -> bytes:
    """As vLLM 0.32's /metrics (vllm/v1/metrics/loggers.py, prometheus_client's text form).

    The slots stand for max_num_seqs, so the KV cache is half empty when all of them run.
    """
    used = 0.5 * running / slots if slots else 0.0
    samples = (
        ("num_requests_running", "Number of requests in model execution batches.", "", running),
        ("num_requests_waiting", "Number of requests waiting to be processed.", "", waiting),
        (
            "num_requests_waiting_by_reason",
            "Number of waiting requests by reason.",
            ',reason="capacity"',
            waiting,
        ),
        ("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", "", used),
        ("num_preemptions_total", "Cumulative number of preemption from the engine.", "", 0),
    )
    return "".join(
        f"# HELP vllm:{name} {text}\n# TYPE vllm:{name} {'counter' if name.endswith('_total') else 'gauge'}\n"
        f'vllm:{name}{{engine="0",model_name="{MODEL}"{label}}} {float(value)}\n'
        for name, text, label, value in samples
    ).encode()
