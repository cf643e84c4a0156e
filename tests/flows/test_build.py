"""The build flow on a real Prefect server, with a stand-in annotator so that each case takes seconds."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from prefect.client.orchestration import get_client

from flows.build_cold_start import build_cold_start
from flows.reannotate import reannotate
from tests.annotation.stand_in import read_stats, stand_in
from tests.flows.main_job import reduced_recipe
from umer1_core.errors import Fatal, SourceError, ValidationFailed
from umer1_core.miniature.prepare import ensure_world
from umer1_core.recipes import load_recipe
from umer1_core.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    ensure_world(root, 80, 20, 0)
    return root


def prepare(folder: Path, world: Path, address: str, **changes):
    """A recipe on a copy of the world, annotated by the stand-in."""
    shutil.copytree(world, folder / "world")
    annotation = {"endpoints": [f"{address}/v1"], "model": "stand-in", "deadline_s": 2}
    path = reduced_recipe(folder, annotation=annotation, filters={"tokenizer": "miniature"}, **changes)
    content = yaml.safe_load(path.read_text())
    content["miniature"] = None
    path.write_text(yaml.safe_dump(content))
    return load_recipe(path)


def train_runs(dataset: str) -> list[str]:
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
    return [str(run.id) for run in runs if run.parameters.get("dataset") == dataset]


def test_a_valid_data_set_starts_its_training_once_however_often_it_is_triggered(tmp_path, world):
    with stand_in() as address:
        recipe = prepare(tmp_path, world, address)
        root = build_cold_start(recipe)
        first = Store(root).read_json("manifest.json")["data_hash"]
        sent = read_stats(address)["requests"]
        assert build_cold_start(recipe) == root
        assert read_stats(address)["requests"] == sent
    assert Store(root).read_json("manifest.json")["data_hash"] == first
    assert len(train_runs(root)) == 1


def test_a_data_set_that_fails_validation_starts_nothing_and_names_the_expectation(tmp_path, world):
    with stand_in(refuse_word="triangle") as address:
        recipe = prepare(tmp_path, world, address)
        with pytest.raises(ValidationFailed, match="error_fraction") as raised:
            build_cold_start(recipe)
    root = f"{recipe.output}/v1"
    assert "shard 00000" in str(raised.value)
    assert train_runs(root) == [] and not Store(root).exists("_VALIDATED.json")


def test_bad_rows_become_recorded_rejections_and_the_rest_goes_on(tmp_path, world):
    with stand_in() as address:
        recipe = prepare(tmp_path, world, address)
        image = next((tmp_path / "world/train/mmeb/images/MSCOCO_i2t").rglob("*.jpg"))
        image.write_bytes(image.read_bytes()[:200])
        clip = next(p for p in (tmp_path / "world/train/llava_hound/train_300k").iterdir() if p.is_dir())
        for frame in clip.iterdir():
            frame.unlink()
        store = Store(build_cold_start(recipe))
    reasons = {row["reason"]: row["detail"] for row in store.read("rejections").to_pylist()}
    assert image.name in reasons["image_damaged"] and clip.name in reasons["clip_without_frames"]
    assert store.read_json("manifest.json")["broken_totals"] == []
    assert sum(entry.rows for entry in store.entries("cold_start")) > 50


def test_a_missing_folder_is_named_with_what_to_do(tmp_path, world):
    with stand_in() as address:
        recipe = prepare(tmp_path, world, address)
        shutil.rmtree(tmp_path / "world/train/vidore")
        with pytest.raises(SourceError, match="vidore") as raised:
            build_cold_start(recipe)
    assert raised.value.remedy


def test_a_missing_column_is_named_with_its_file(tmp_path, world):
    with stand_in() as address:
        recipe = prepare(tmp_path, world, address)
        file = tmp_path / "world/train/mmeb/OK-VQA/original-00000-of-00001.parquet"
        pq.write_table(pq.read_table(file).drop_columns(["pos_text"]), file)
        with pytest.raises(SourceError, match="pos_text") as raised:
            build_cold_start(recipe)
    assert file.name in str(raised.value)


def test_an_unreachable_endpoint_stops_the_run_and_what_was_done_is_gone_on_with(tmp_path, world):
    with stand_in() as address:
        recipe = prepare(tmp_path, world, address)
        away = recipe.annotation.model_copy(update={"endpoints": ["http://127.0.0.1:9/v1"]})
        with pytest.raises(Fatal, match=r"127\.0\.0\.1:9"):
            build_cold_start(recipe.model_copy(update={"annotation": away}))
        root = build_cold_start(recipe)
    assert root.endswith("/v1")


def test_a_reannotation_asks_only_what_failed_and_makes_a_new_version(tmp_path, world):
    with stand_in(refuse_word="triangle") as address:
        recipe = prepare(tmp_path, world, address, validation={"max_error_fraction": 1.0, "min_kept_fraction": 0.0})
        first = Store(build_cold_start(recipe))
        sides = sum(entry.rows for entry in first.entries("sides"))
        failed = sum(entry.metrics["errors"] for entry in first.entries("annotations"))
    assert 0 < failed < sides
    with stand_in() as address:
        mended = recipe.annotation.model_copy(update={"endpoints": [f"{address}/v1"]})
        second = Store(reannotate(recipe.model_copy(update={"annotation": mended})))
    assert second.root.endswith("/v2") and json.loads(second.read_bytes("version.json"))["parent"] == first.root
    entries = second.entries("annotations")
    assert sum(entry.metrics["requests"] for entry in entries) == failed
    assert sum(entry.metrics["errors"] for entry in entries) == 0
    assert reannotate(recipe.model_copy(update={"annotation": mended})) == ""
