"""Rollouts by a vLLM server over HTTP, on the policy's present weights: written beside it, then read again in place.

Guarantees: nothing is sampled from older weights once `load` returns, on any rank; ids and log-probabilities are the
sampler's own; equal seeds, weights and prompts ask the same; a server that is gone for longer than its patience is a
Transient. The server is vLLM 0.32 with VLLM_SERVER_DEV_MODE=1 on `weights_folder`, see deploy/rollouts.sh.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson
import uvloop

from umer1_core.backbone.model import TokenIds
from umer1_core.errors import BadInput, BadOutput, Busy, Fatal, Transient
from umer1_core.grpo.rollouts.face import Completion, Prompt, Sampling, SaveWeights
from umer1_core.grpo.rollouts.vllm_chat import (
    CLIPS,
    chat_messages,
    check_prompt,
    completion,
    request_seeds,
    sampling_fields,
)
from umer1_core.grpo.rollouts.vllm_http import Patience, Server
from umer1_core.grpo.rollouts.vllm_weights import put_weights
from umer1_core.grpo.rollouts.vllm_worker import WORKER

_LOGPROBS = "processed_logprobs"  # of the distribution that is sampled from
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 5.0

T = TypeVar("T")


class FromServer:
    """url: the server's address, with or without /v1; weights_folder: what it was started on, on its own machine.

    main: whether this rank writes weights and has them read; barrier: waits until every rank has called it.
    patience_s: how long the server may be gone; timeout_s: of one request, with its time in the server's queue.
    """

    reads_vectors = False

    def __init__(
        self,
        url: str,
        sampling: Sampling,
        ids: TokenIds,
        weights_folder: Path,
        *,
        main: bool = True,
        barrier: Callable[[], None] = lambda: None,
        patience_s: float = 300.0,
        timeout_s: float = 1_800.0,
    ) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._sampling, self._ids, self._folder = sampling, ids, weights_folder
        self._main, self._barrier = main, barrier
        self._patience_s, self._timeout_s = patience_s, timeout_s
        self._loaded: int | None = None

    def load(self, step: int, save: SaveWeights) -> None:
        """See `Rollouts`; every rank calls it. Raises Fatal, with the remedy, for a server that cannot reload."""
        if step == self._loaded:
            return
        if self._main and self._loaded is None:
            uvloop.run(self._examine())
        put_weights(save, self._folder, self._main)
        if self._main:
            uvloop.run(self._reload())
        self._barrier()
        self._loaded = step

    def sample(self, prompts: Sequence[Prompt], group: int, seed: int) -> list[list[Completion]]:
        """See `Rollouts`. Raises BadInput with the key of a side that the server refuses, Fatal where it reads another
        prompt than the trainer's."""
        return uvloop.run(self._sample(prompts, group, seed))

    def close(self) -> None:
        """The server stays: it is not this one's."""

    async def _examine(self) -> None:
        """Raises Fatal for a server on another folder, or one whose log-probabilities are not those it samples by."""
        async with Server(self._url, self._timeout_s) as server:
            info = await _persist(Patience(self._patience_s), lambda: server.get("/server_info?config_format=json"))
        served, parallel = info["vllm_config"]["model_config"], info["vllm_config"]["parallel_config"]
        if Path(served["model"]).resolve() != self._folder.resolve():
            raise Fatal(
                f"The server reads its weights from {served['model']}, the trainer writes them to {self._folder}.",
                "Start it on that folder, at the same path (deploy/rollouts.sh), or set `grpo.server_weights`.",
            )
        clips = served["multimodal_config"]["media_io_kwargs"]
        if (served["logprobs_mode"], parallel["worker_extension_cls"], clips) != (_LOGPROBS, WORKER, CLIPS):
            raise Fatal(
                f"The server at {self._url} was not started for rollouts.",
                f"Start it with --logprobs-mode {_LOGPROBS} --worker-extension-cls {WORKER} "
                f"--media-io-kwargs '{orjson.dumps(CLIPS).decode()}', as deploy/rollouts.sh does.",
            )

    async def _reload(self) -> None:
        patience = Patience(self._patience_s)
        async with Server(self._url, self._timeout_s) as server:
            await _persist(patience, lambda: server.post("/collective_rpc", b'{"method":"load_policy"}'))
            # Reloading empties the workers' features of media, of which the scheduler would still know.
            await _persist(patience, lambda: server.post("/reset_encoder_cache"))
            await _persist(patience, lambda: _reset_prefixes(server))

    async def _sample(self, prompts: Sequence[Prompt], group: int, seed: int) -> list[list[Completion]]:
        patience = Patience(self._patience_s)
        async with Server(self._url, self._timeout_s) as server:
            asked = [
                asyncio.create_task(self._group(server, patience, prompt, group, own))
                for prompt, own in zip(prompts, request_seeds(prompts, seed), strict=True)
            ]
            try:
                return await asyncio.gather(*asked)
            finally:
                for task in asked:
                    task.cancel()
                await asyncio.gather(*asked, return_exceptions=True)

    async def _group(
        self, server: Server, patience: Patience, prompt: Prompt, group: int, seed: int
    ) -> list[Completion]:
        body = await asyncio.to_thread(self._body, prompt, group, seed)
        try:
            return await _persist(patience, lambda: self._ask(server, body, prompt, group))
        except BadInput as error:
            raise BadInput(error.reason, f"side {prompt.key}: {error.detail}") from error

    def _body(self, prompt: Prompt, group: int, seed: int) -> bytes:
        fields = sampling_fields(self._sampling, self._ids, group, seed)
        asked = {"messages": chat_messages(prompt), "logprobs": True, "return_token_ids": True}
        return orjson.dumps(asked | fields, option=orjson.OPT_NON_STR_KEYS)

    async def _ask(self, server: Server, body: bytes, prompt: Prompt, group: int) -> list[Completion]:
        answer = await server.post("/v1/chat/completions", body)
        try:
            used, choices = answer["prompt_token_ids"], answer["choices"]
            made = [_ids_and_logprobs(choice) for choice in sorted(choices, key=lambda choice: choice["index"])]
        except (KeyError, TypeError) as error:
            raise Fatal(
                f"{self._url} answers without token ids or log-probabilities ({error!r}).", "Serve with vLLM 0.32."
            ) from error
        if len(made) != group:
            raise BadOutput(f"{self._url} gave {len(made)} completions of {group}")
        check_prompt(prompt, used)
        return [completion(ids, logprobs, self._sampling, prompt) for ids, logprobs in made]


def _ids_and_logprobs(choice: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Raises Transient for a completion that the server broke off."""
    if choice["finish_reason"] not in ("stop", "length"):
        raise Transient(f"a completion ended with `{choice['finish_reason']}`")
    ids, logprobs = choice["token_ids"], [token["logprob"] for token in choice["logprobs"]["content"]]
    if len(ids) != len(logprobs):
        raise BadOutput(f"{len(ids)} token ids came with {len(logprobs)} log-probabilities")
    return ids, logprobs


async def _reset_prefixes(server: Server) -> None:
    answer = await server.post("/reset_prefix_cache")
    # Blocks are held as long as a request runs: one that its client has just left.
    if not answer["success"]:
        raise Busy("the server's prefix cache is in use", 1.0)


async def _persist(patience: Patience, call: Callable[[], Awaitable[T]]) -> T:
    """Call until it succeeds, or the server has been gone for longer than the patience."""
    wait = _FIRST_WAIT_S
    while True:
        try:
            answer = await call()
        except Transient as error:
            patience.failed(error)
            await asyncio.sleep(max(wait, error.retry_after_s if isinstance(error, Busy) else 0.0))
            wait = min(2 * wait, _LONGEST_WAIT_S)
        else:
            patience.answered()
            return answer
