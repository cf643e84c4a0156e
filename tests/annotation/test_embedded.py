"""The embedded annotator on transformers: the same protocol as vLLM's, and it survives its own death.

vLLM itself is covered by the main job and by the teacher's tests.
"""

import asyncio
import os
import signal
from pathlib import Path
from typing import cast

import psutil
import pytest
from aiohttp.test_utils import TestClient, TestServer

from schemas.recipe import Annotation, LoopStop
from umer1_core.annotation import embedded
from umer1_core.annotation.client import ChatClient
from umer1_core.annotation.embedded import choose_backend, embedded_annotator
from umer1_core.annotation.engine import annotate_shard
from umer1_core.annotation.preflight import Capabilities, examine, probe_sides
from umer1_core.annotation.transformers_server import ChatServer, Generator
from umer1_core.errors import Fatal
from umer1_core.miniature.prepare import ensure_world
from umer1_core.pairs import Side
from umer1_core.recipes import miniature_recipe
from umer1_core.sampling.sample import index_sides, list_sources, sample_source
from umer1_core.store import Store
from umer1_core.template import parse_annotation


def image_part(url: str) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url}}


def without_vllm(monkeypatch):
    monkeypatch.setattr(embedded, "_installed", lambda distribution: False)


def test_without_vllm_the_run_falls_back_and_says_so(monkeypatch):
    without_vllm(monkeypatch)
    assert choose_backend("auto") == "transformers"
    said = embedded._announcement("transformers", "m", Path("log"))
    assert "vLLM is not installed" in said and "slower" in said


def test_vllm_asked_for_and_missing_is_an_error_with_the_command_to_install_it(monkeypatch):
    without_vllm(monkeypatch)
    with pytest.raises(Fatal, match="pip install"):
        choose_backend("vllm")


def test_a_server_that_cannot_start_is_named_with_its_log(tmp_path):
    annotation = miniature_recipe().annotation
    broken = annotation.model_copy(
        update={
            "model": str(tmp_path / "no-model"),
            "embedded": annotation.embedded.model_copy(update={"backend": "transformers"}),
        }
    )
    with pytest.raises(Fatal, match="ended while starting"), embedded_annotator(broken, tmp_path / "log"):
        pass


def command(media_root: str = "", **changes: object) -> list[str]:
    annotation = miniature_recipe().annotation.model_copy(update=changes)
    return embedded._command("vllm-gpu", annotation, 8000, media_root)


def test_vllm_is_started_for_what_the_recipe_asks_and_for_nothing_else(tmp_path):
    assert not {"--reasoning-config", "--reasoning-parser", "--allowed-local-media-path"} & set(command())
    assert embedded.THINKING in command(thinking_budget=100)
    allowed = command(str(tmp_path))
    assert allowed[allowed.index("--allowed-local-media-path") + 1] == str(tmp_path)
    assert "--allowed-local-media-path" not in command(str(tmp_path), media="inline")


class NoModel:
    """Stands where the model would: what is tested is answered before it."""

    context = 4096

    def generate(self, jobs: list[object]) -> list[dict[str, object]]:
        raise ValueError("no model")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"repetition_detection": {"min_count": 9}}, "repetition_detection"),
        ({"thinking_token_budget": 9}, "thinking_token_budget"),
        ({"messages": [{"role": "user", "content": [image_part("file:///x.jpg")]}]}, "data URLs"),
        ({"messages": [{"role": "user", "content": [image_part("data:image/png;base64,eHg=")]}]}, "bad input"),
    ],
)
def test_transformers_refuses_what_it_cannot_honour(fields, says):
    async def ask() -> tuple[int, str, dict[str, int]]:
        server = TestServer(ChatServer("tiny", cast(Generator, NoModel()), 4).application())
        annotation = miniature_recipe().annotation
        async with server, TestClient(server) as client, ChatClient(annotation) as ours:
            body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]} | fields
            response = await client.post("/v1/chat/completions", json=body)
            return response.status, await response.text(), await ours.served(f"http://127.0.0.1:{server.port}/v1")

    status, text, served = asyncio.run(ask())
    assert status == 400 and says in text
    assert served == {"tiny": 4096}


def examined(annotation: Annotation, endpoint: str, sides: list[Side]) -> Capabilities:
    async def run() -> Capabilities:
        async with ChatClient(annotation) as client:
            return await examine(client, endpoint, annotation, sides)

    return asyncio.run(run())


@pytest.mark.slow
def test_transformers_reads_every_kind_of_input_and_is_started_again_after_a_kill(tmp_path):
    ensure_world(tmp_path / "world", 60, 20, 0)
    recipe = miniature_recipe()
    store = Store(str(tmp_path / "out"))
    sources = [
        s.model_copy(update={"root": s.root.replace(recipe.miniature.root, f"{tmp_path}/world")})
        for s in recipe.sources
    ]
    for spec in list_sources(sources):
        sample_source(spec, 0, store)
    index_sides(store, 40, 0)
    fallback = recipe.annotation.embedded.model_copy(update={"backend": "transformers"})
    annotation = recipe.annotation.model_copy(update={"embedded": fallback, "concurrency": 16})
    with embedded_annotator(annotation, tmp_path / "log") as endpoints:
        assert examined(annotation, endpoints[0], probe_sides(store.iterate("sides"))) == Capabilities(False, 4096)
        with pytest.raises(Fatal, match=r"stop_loops.*use vLLM"):
            stopping = annotation.model_copy(update={"stop_loops": LoopStop()})
            examined(stopping, endpoints[0], probe_sides(store.iterate("sides")))
        annotate_shard(store, "00000", annotation, endpoints, tmp_path / "journal", "f")
        (server,) = [
            p for p in psutil.Process().children(recursive=True) if "transformers_server" in " ".join(p.cmdline())
        ]
        os.kill(server.pid, signal.SIGKILL)
        annotate_shard(store, "00001", annotation, endpoints, tmp_path / "journal", "f", patience_s=120)
    rows = store.read("annotations").to_pylist()
    formed = [not parse_annotation(row["completion"], row["finish_reason"] == "length").problem for row in rows]
    assert all(row["finish_reason"] != "error" for row in rows) and sum(formed) / len(formed) > 0.7
    kinds = {media["kind"] for side in store.iterate("sides") for media in side["media"]}
    assert kinds == {"image", "video"}
