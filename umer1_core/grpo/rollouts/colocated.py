"""Rollouts by a vLLM engine that this process starts and ends, on the device that it trains on.

Guarantees: those of rollouts by a server, with the same prompts and the same sampling; the engine ends with this
process, also where that is killed with -9. It is a child process: neither its threads nor its process group are the
trainer's. Run on the CPU build of vLLM 0.32; on a GPU, and with `sleeps`, this was not run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from umer1_core.backbone.model import TokenIds
from umer1_core.errors import BadInput, Fatal
from umer1_core.grpo.rollouts.face import Completion, Prompt, Sampling, SaveWeights
from umer1_core.grpo.rollouts.vllm_chat import (
    CLIPS,
    chat_messages,
    check_prompt,
    completion,
    request_seeds,
    sampling_fields,
)
from umer1_core.grpo.rollouts.vllm_weights import put_weights
from umer1_core.grpo.rollouts.vllm_worker import WORKER

_GIB = 1 << 30


class Colocated:
    """One engine a rank, started by the first `load` on the weights it writes.

    weights_folder: one that all ranks see, best in memory (/dev/shm); main: whether this rank writes it;
    barrier: waits until every rank has called it; device: this rank's; memory: the engine's share of a GPU;
    kv_cache_gib: on the CPU; max_model_len: of prompt and completion; sleeps: give the memory back between steps.
    """

    reads_vectors = False

    def __init__(
        self,
        sampling: Sampling,
        ids: TokenIds,
        weights_folder: Path,
        device: torch.device,
        max_model_len: int,
        *,
        main: bool = True,
        barrier: Callable[[], None] = lambda: None,
        memory: float = 0.3,
        kv_cache_gib: int = 1,
        max_num_seqs: int = 256,
        sleeps: bool = False,
    ) -> None:
        self._sampling, self._ids, self._folder, self._device = sampling, ids, weights_folder, device
        self._main, self._barrier, self._sleeps = main, barrier, sleeps
        self._settings: dict[str, Any] = {"max_model_len": max_model_len, "max_num_seqs": max_num_seqs}
        if device.type == "cuda":
            self._settings |= {"dtype": "bfloat16", "gpu_memory_utilization": memory, "enable_sleep_mode": sleeps}
        else:
            # A prompt that is prefilled in chunks rewinds its request's random generator, which the CPU's cannot.
            self._settings |= {"dtype": "float32", "kv_cache_memory_bytes": kv_cache_gib * _GIB, "enforce_eager": True}
            self._settings |= {"enable_chunked_prefill": False, "disable_chunked_mm_input": True}
            self._settings |= {"max_num_batched_tokens": max(max_model_len, 8_192)}
        self._engine: Any = None
        self._loaded: int | None = None

    def load(self, step: int, save: SaveWeights) -> None:
        """See `Rollouts`; every rank calls it. Raises Fatal where vLLM is not installed or does not start."""
        if step == self._loaded:
            return
        put_weights(save, self._folder, self._main)
        self._barrier()
        if self._engine is None:
            self._engine = self._start()
        else:
            with _living():
                self._reload()
        self._loaded = step

    def sample(self, prompts: Sequence[Prompt], group: int, seed: int) -> list[list[Completion]]:
        """See `Rollouts`. Raises BadInput with the key of a side that does not fit, Fatal where another prompt is read
        than the trainer's, or the engine died. At a block's end the engine sleeps, if it `sleeps`."""
        for prompt in prompts:
            self._check_length(prompt)
        from vllm import SamplingParams

        fields = [sampling_fields(self._sampling, self._ids, group, own) for own in request_seeds(prompts, seed)]
        asked = [SamplingParams(**each, logprobs=0, detokenize=False) for each in fields]
        messages = [chat_messages(prompt) for prompt in prompts]
        with _living():
            self._wake()
            answers = self._engine.chat(messages, asked, use_tqdm=False)
            if self._sleeps:
                self._engine.sleep(level=1)
        return [self._group(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]

    def close(self) -> None:
        """End the engine."""
        if self._engine is not None:
            self._engine.llm_engine.engine_core.shutdown()
            self._engine = None

    def _reload(self) -> None:
        self._wake()
        self._engine.collective_rpc("load_policy")
        # Reloading empties the worker's features of media, of which the scheduler would still know.
        self._engine.llm_engine.reset_encoder_cache()
        self._engine.reset_prefix_cache()

    def _check_length(self, prompt: Prompt) -> None:
        length, written, limit = len(prompt.row), self._sampling.max_new_tokens, self._settings["max_model_len"]
        if length + written > limit:
            raise BadInput(
                "too_many_tokens",
                f"side {prompt.key}: {length} tokens and {written} to write, the engine holds {limit}",
            )

    def _wake(self) -> None:
        if self._sleeps:
            self._engine.wake_up()

    def _group(self, prompt: Prompt, answer: Any) -> list[Completion]:
        check_prompt(prompt, answer.prompt_token_ids)
        made = []
        for output in answer.outputs:
            ids = list(output.token_ids)
            logprobs = [float(at[token].logprob) for token, at in zip(ids, output.logprobs, strict=True)]
            made.append(completion(ids, logprobs, self._sampling, prompt))
        return made

    def _start(self) -> Any:
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        if self._device.type == "cpu":
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        try:
            from vllm import LLM
        except ImportError as error:
            raise Fatal(
                "`grpo.rollouts: colocated` needs vLLM.", "pip install 'umer1[serve]' (GPU) or 'umer1[serve-cpu]'."
            ) from error
        try:
            with _only(self._device):
                engine = LLM(
                    str(self._folder),
                    generation_config="vllm",
                    logprobs_mode="processed_logprobs",
                    worker_extension_cls=WORKER,
                    media_io_kwargs=CLIPS,
                    **self._settings,
                )
        except (RuntimeError, ValueError, OSError) as error:
            raise Fatal(f"vLLM does not start: {error}", "Its own messages stand above.") from error
        engine.collective_rpc("end_with", args=(os.getpid(),))
        return engine


@contextlib.contextmanager
def _living() -> Iterator[None]:
    """Raises Fatal where the engine dies inside."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise Fatal(
            "The vLLM engine of this process died.", "Its messages stand above; started again, the training goes on."
        ) from error


@contextlib.contextmanager
def _only(device: torch.device) -> Iterator[None]:
    """Processes started inside see this GPU alone."""
    if device.type != "cuda":
        yield
        return
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    index = device.index or 0
    os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[index] if seen else str(index)
    try:
        yield
    finally:
        if seen is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = seen
