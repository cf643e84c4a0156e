"""An OpenAI-compatible chat server on transformers, for machines where vLLM cannot be installed.

    python -m umer1_core.annotation.transformers_server DIR --port 8000

Serves /health, /v1/models and /v1/chat/completions with text, image and clip parts given as data URLs. Requests that
wait together are generated together. Slow and small on purpose; the protocol is what matters: a field that this server
cannot honour is refused, never ignored.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
from dataclasses import dataclass
from typing import Any

import torch
from aiohttp import web
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from umer1_core.compat import end_with_parent

_RUNNER: web.AppKey[asyncio.Task[None]] = web.AppKey("runner")
_HONOURED = {"model", "messages", "temperature", "top_p", "max_tokens", "seed", "skip_special_tokens"}


@dataclass(slots=True)
class _Job:
    conversation: list[dict[str, Any]]
    sampling: tuple[float, float, int]
    seed: int
    answer: asyncio.Future[dict[str, Any]]

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """What a batch must share: sampling, and the kinds of media.

        GLM-4.1V writes clips with image tokens; beside an image in one batch they are counted as the image's.
        """
        kinds = {part["type"] for message in self.conversation for part in message["content"]}
        return (*self.sampling, *sorted(kinds))


class Generator:
    """The model and its processor; `generate` answers a batch with equal sampling settings."""

    def __init__(self, model: str) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model: Any = AutoModelForImageTextToText.from_pretrained(model).eval()
        self.model.to(device)
        self.processor = AutoProcessor.from_pretrained(model, padding_side="left")
        self.context = int(self.model.config.get_text_config().max_position_embeddings)

    @torch.inference_mode()
    def generate(self, jobs: list[_Job]) -> list[dict[str, Any]]:
        temperature, top_p, max_tokens = jobs[0].sampling
        inputs = self.processor.apply_chat_template(
            [job.conversation for job in jobs],
            add_generation_prompt=True,
            tokenize=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"do_sample_frames": False},
        ).to(self.model.device)
        torch.manual_seed(jobs[0].seed)
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature else {}
        output = self.model.generate(**inputs, max_new_tokens=max_tokens, **({"do_sample": False} | sampling))
        prompt_length = inputs["input_ids"].shape[1]
        prompts = inputs["attention_mask"].sum(1).tolist()
        return [self._answer(row[prompt_length:], count) for row, count in zip(output, prompts, strict=True)]

    def _answer(self, tokens: torch.Tensor, prompt_tokens: int) -> dict[str, Any]:
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        ids = tokens.tolist()
        stop = next((i for i, token in enumerate(ids) if token in ends), None)
        text = self.processor.tokenizer.decode(ids[:stop], skip_special_tokens=False)
        return {
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "length" if stop is None else "stop",
                }
            ],
            "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": len(ids) if stop is None else stop + 1},
        }


def to_conversation(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """OpenAI message parts to the processor's: data URLs become pictures and lists of frames."""
    return [{"role": m["role"], "content": [_part(p) for p in _parts(m["content"])]} for m in messages]


def _parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return part
    kind = part["type"].removesuffix("_url")
    head, found, encoded = part[part["type"]]["url"].partition("base64,")
    if not found:
        raise ValueError(f"media must be data URLs, not {head[:80]}")
    pictures = [Image.open(io.BytesIO(base64.b64decode(item))).convert("RGB") for item in encoded.split(",")]
    return {"type": kind, kind: pictures if kind == "video" else pictures[0]}


class ChatServer:
    """Collects waiting requests into batches."""

    def __init__(self, name: str, generator: Generator, batch: int) -> None:
        self.name, self.generator, self.batch = name, generator, batch
        self.waiting: asyncio.Queue[_Job] = asyncio.Queue()

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        if unknown := sorted(body.keys() - _HONOURED):
            return _refused(f"the transformers server has no {', '.join(unknown)}; use vLLM")
        try:
            conversation = to_conversation(body["messages"])
        except (KeyError, ValueError, OSError) as error:
            return _refused(f"bad input: {error}")
        sampling = (
            float(body.get("temperature", 1.0)),
            float(body.get("top_p", 1.0)),
            int(body.get("max_tokens", 1024)),
        )
        job = _Job(conversation, sampling, int(body.get("seed") or 0), asyncio.get_running_loop().create_future())
        await self.waiting.put(job)
        return web.json_response(await job.answer | {"model": self.name, "object": "chat.completion"})

    async def run(self) -> None:
        while True:
            jobs = [await self.waiting.get()]
            while len(jobs) < self.batch and not self.waiting.empty():
                jobs.append(self.waiting.get_nowait())
            for key in {job.batch_key for job in jobs}:
                await self._answer([job for job in jobs if job.batch_key == key])

    async def _answer(self, jobs: list[_Job]) -> None:
        try:
            answers = await asyncio.to_thread(self.generator.generate, jobs)
        except (RuntimeError, ValueError) as error:
            for job in jobs:
                job.answer.set_exception(web.HTTPBadRequest(text=str(error)[:300]))
            return
        for job, answer in zip(jobs, answers, strict=True):
            job.answer.set_result(answer)

    def application(self) -> web.Application:
        async def ok(_: web.Request) -> web.Response:
            return web.json_response({})

        async def models(_: web.Request) -> web.Response:
            model = {"id": self.name, "object": "model", "max_model_len": self.generator.context}
            return web.json_response({"object": "list", "data": [model]})

        async def start(app: web.Application) -> None:
            app[_RUNNER] = asyncio.create_task(self.run())

        app = web.Application(client_max_size=1 << 30)
        app.add_routes([web.get("/health", ok), web.get("/v1/models", models)])
        app.add_routes([web.post("/v1/chat/completions", self.complete)])
        app.on_startup.append(start)
        return app


def _refused(message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=400)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--served-model-name", default="")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    end_with_parent()
    server = ChatServer(arguments.served_model_name or arguments.model, Generator(arguments.model), arguments.batch)
    web.run_app(server.application(), host="127.0.0.1", port=arguments.port)


if __name__ == "__main__":
    main()
