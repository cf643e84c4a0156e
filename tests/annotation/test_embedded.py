"""The embedded annotator on transformers: the same protocol as vLLM's, and it survives its own death.

vLLM itself is covered by the main job and by the teacher's tests.
"""

import os
import signal
from pathlib import Path

import psutil
import pytest

from umer1_core.annotation import embedded
from umer1_core.annotation.embedded import choose_backend, embedded_annotator
from umer1_core.annotation.engine import annotate_shard
from umer1_core.errors import Fatal
from umer1_core.miniature.prepare import ensure_world
from umer1_core.recipes import miniature_recipe
from umer1_core.sampling.sample import index_sides, list_sources, sample_source
from umer1_core.store import Store
from umer1_core.template import parse_annotation


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
