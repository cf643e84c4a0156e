"""A server that speaks as vLLM does to rollouts, without a model: for what must hold whatever the model says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

from umer1_core.grpo.rollouts.vllm_chat import CLIPS
from umer1_core.grpo.rollouts.vllm_worker import WORKER

Answer = tuple[int, Any]


class StandIn:
    """asked: routes as they came; bodies: those of completions; first: answers that come before the rest."""

    def __init__(self, weights_folder: str, prompt: tuple[int, ...]) -> None:
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.first: dict[str, list[Answer]] = {}
        self.written, self.finish_reason, self.prompt = (7, 2), "stop", prompt
        self.served: dict[str, Any] = {"model": weights_folder, "logprobs_mode": "processed_logprobs"}
        self.served["multimodal_config"] = {"media_io_kwargs": CLIPS}
        self.parallel = {"worker_extension_cls": WORKER}
        self.url = ""

    def answer(self, route: str, body: bytes) -> Answer:
        route = route.partition("?")[0]
        self.asked.append(route)
        if self.first.get(route):
            return self.first[route].pop(0)
        if route == "/v1/chat/completions":
            self.bodies.append(orjson.loads(body))
            return 200, self._completions(self.bodies[-1]["n"])
        known = {
            "/server_info": {"vllm_config": {"model_config": self.served, "parallel_config": self.parallel}},
            "/collective_rpc": {"results": [None]},
            "/reset_encoder_cache": None,
            "/reset_prefix_cache": {"success": True},
        }
        return (200, known[route]) if route in known else (404, {"detail": "Not Found"})

    def _completions(self, count: int) -> dict[str, Any]:
        content = [{"token": "", "logprob": -0.5} for _ in self.written]
        choice = {"finish_reason": self.finish_reason, "token_ids": self.written, "logprobs": {"content": content}}
        # The last first: their order is no matter.
        return {"prompt_token_ids": self.prompt, "choices": [choice | {"index": i} for i in reversed(range(count))]}


@contextmanager
def serve(stand_in: StandIn) -> Iterator[str]:
    """Yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply()

        def do_POST(self) -> None:
            self._reply()

        def _reply(self) -> None:
            status, content = stand_in.answer(self.path, self.rfile.read(int(self.headers.get("Content-Length", 0))))
            if status == 0:  # gone in the middle of a request
                self.close_connection = True
                return
            data = b"" if content is None else orjson.dumps(content)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
