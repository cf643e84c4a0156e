"""Before a run the doctor names what is missing, damaged or leaking, each with what to do."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from schemas.recipe import Recipe
from schemas.sources import MediaRules
from umer1_core.doctor.run import Examination, examine
from umer1_core.doctor.show import print_examination
from umer1_core.doctor.tokens import media_tokens, text_tokens
from umer1_core.errors import RecipeError
from umer1_core.pairs import Media, Pair, Side, pair_record
from umer1_core.recipes import parse_recipe
from umer1_core.store import Store

BLANK = {"qry": "", "qry_image_path": "", "pos_text": "", "pos_image_path": ""}
MakeRecipe = Callable[..., Recipe]


def jpeg(number: int, size: tuple[int, int] = (32, 16)) -> bytes:
    sink = io.BytesIO()
    noise = random.Random(number).randbytes(12)
    Image.frombytes("RGB", (2, 2), noise).resize(size).save(sink, "JPEG")
    return sink.getvalue()


def write_subset(root: Path, rows: list[dict[str, str]], subset: str = "OK-VQA", first_image: int = 0) -> Path:
    """A subset of MMEB-train; ten pictures, told apart from those of another `first_image`."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    for number in range(10):
        (root / f"images/{number}.jpg").write_bytes(jpeg(first_image + number, (32, 16 + number)))
    (root / subset).mkdir(exist_ok=True)
    table = pa.Table.from_pylist([BLANK | row for row in rows])
    pq.write_table(table, root / subset / "original-00000-of-00001.parquet")
    return root


def questions(count: int) -> list[dict[str, str]]:
    return [
        {"qry": f"<|image_1|>\nWhat is {n}?", "qry_image_path": f"images/{n % 10}.jpg", "pos_text": f"a{n % 4}"}
        for n in range(count)
    ]


@pytest.fixture
def make_recipe(tmp_path: Path) -> MakeRecipe:
    def make(*roots: Path, **parts: Any) -> Recipe:
        sources = [{"kind": "mmeb", "root": str(root)} for root in roots]
        content = {"name": "x", "output": str(tmp_path / "out"), "annotation": {"model": "miniature"}}
        return parse_recipe(content | {"sources": sources, "training": {"enabled": False}} | parts)

    return make


def run(recipe: Recipe, **options: Any) -> Examination:
    return examine(recipe, 50, lambda what, done, total: None, **options)


def said(examination: Examination, level: str) -> list[str]:
    return [f"{each.about}: {each.message} {each.remedy}" for each in examination.verdicts if each.level == level]


def test_a_sound_recipe_is_ok_and_says_what_its_sources_hold(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    examination = run(make_recipe(write_subset(tmp_path / "mmeb", questions(40))))

    assert said(examination, "error") == []
    (found,) = examination.sources
    assert (found.source, found.rows, found.pairs, found.read, found.opened) == ("mmeb/OK-VQA", 40, 40, 40, 40)
    assert found.distinct_targets == 0.1 and found.refused == {} and found.leaked == 0
    assert found.images == [(32, 16), (32, 21), (32, 25)]
    assert found.query_tokens > found.target_tokens > 100, "the annotation prompt is part of both"


def test_every_missing_source_is_named_not_only_the_first(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    good = write_subset(tmp_path / "mmeb", questions(5))

    examination = run(make_recipe(tmp_path / "no1", good, tmp_path / "no2"))

    errors = said(examination, "error")
    assert [error.split(":")[0] for error in errors] == ["sources.0 (mmeb)", "sources.2 (mmeb)"]
    assert all("Correct `root`" in error for error in errors)
    assert [each.source for each in examination.sources] == ["mmeb/OK-VQA"]


def test_a_file_without_its_columns_and_a_damaged_file_are_errors(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    one, two = (write_subset(tmp_path / name, questions(5), subset=name) for name in ("A", "B"))
    pq.write_table(pa.table({"qry": ["x"]}), one / "A/original-00000-of-00001.parquet")
    (two / "B/original-00000-of-00001.parquet").write_bytes(b"PAR1 no")

    errors = said(run(make_recipe(one, two)), "error")

    assert "no column `qry_image_path`" in errors[0] and "not readable Parquet" in errors[1]


def test_missing_pictures_are_an_error_with_the_reason_and_a_row(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    root = write_subset(tmp_path / "mmeb", questions(40))
    for number in range(6):
        (root / f"images/{number}.jpg").unlink()

    (error,) = said(run(make_recipe(root)), "error")

    assert "24 rows cannot be used, 24 for media_missing: original-00000-of-00001.parquet#" in error
    assert "umer1 download" in error


def test_a_few_bad_rows_are_counted_and_no_finding(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    examination = run(make_recipe(write_subset(tmp_path / "mmeb", [*questions(40), {"qry": "no target"}])))

    assert examination.sources[0].refused == {"empty_target": 1}
    assert not [each for each in examination.verdicts if each.about == "mmeb/OK-VQA" and each.level != "ok"]


def test_rows_other_than_published_are_a_warning_and_repeated_rows_are_counted(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    examination = run(make_recipe(write_subset(tmp_path / "mmeb", [*questions(10), *questions(10)])))

    warnings = said(examination, "warning")
    assert any("mmeb/OK-VQA 20 (about 9,000)" in warning for warning in warnings)
    assert any("10 of 20 rows repeat another" in warning for warning in warnings)
    assert examination.sources[0].repeated == 10


@pytest.mark.parametrize("kind", ["evaluation", "recipe", "folder", "data set"])
def test_a_picture_that_stands_in_an_evaluation_set_under_another_name_is_found(
    make_recipe: MakeRecipe, tmp_path: Path, kind: str
) -> None:
    training = write_subset(tmp_path / "train", questions(40))
    held_out = write_subset(tmp_path / "eval", questions(10), first_image=100)
    (held_out / "images/7.jpg").write_bytes((training / "images/3.jpg").read_bytes())
    against, parts = evaluation_set(kind, tmp_path, held_out, make_recipe)

    examination = run(make_recipe(training, **parts), against=against)

    (error,) = said(examination, "error")
    assert "4 of 40 opened pairs show evaluation media" in error and "3.jpg" in error
    assert examination.sources[0].leaked == 4


def evaluation_set(kind: str, folder: Path, held_out: Path, make: MakeRecipe) -> tuple[list[str], dict[str, Any]]:
    if kind == "evaluation":
        return [], {"evaluation": {"sources": [{"kind": "mmeb", "root": str(held_out)}]}}
    if kind == "recipe":
        (folder / "other.yaml").write_text(json.dumps(make(held_out).dump()))
        return [str(folder / "other.yaml")], {}
    if kind == "folder":
        return [str(held_out / "images")], {}
    from umer1_core.media import describe

    media = describe(Media("image", str(held_out / "images/7.jpg")))
    pair = Pair("1" * 32, "mmeb/X", "image", Side("q", (media,)), Side("t"))
    Store(str(folder / "set")).write_shard("pairs", "00000", [pair_record(pair)])
    return [str(folder / "set")], {}


def test_other_pictures_are_no_leak(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    training = write_subset(tmp_path / "train", questions(40))
    held_out = write_subset(tmp_path / "eval", questions(10), first_image=100)

    examination = run(make_recipe(training), against=[str(held_out / "images")])

    assert examination.evaluation_media == 10 and examination.sources[0].leaked == 0


def test_nothing_to_compare_with_is_a_sentence(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"--against: there is nothing at .*nowhere"):
        run(make_recipe(write_subset(tmp_path / "m", questions(3))), against=[str(tmp_path / "nowhere")])


def test_an_output_that_cannot_be_written_and_a_missing_model_are_errors(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("-")
    (tmp_path / "model").mkdir()
    training = {"model": str(tmp_path / "nowhere"), "enabled": True}
    annotation = {"model": str(tmp_path / "model")}
    recipe = make_recipe(
        write_subset(tmp_path / "m", questions(3)),
        output=str(tmp_path / "file/out"), training=training, annotation=annotation,
    )  # fmt: skip

    errors = {error.split(":")[0]: error for error in said(run(recipe), "error")}

    assert set(errors) == {"output", "annotation.model", "training.model"}
    assert "has no config.json" in errors["annotation.model"] and "no folder" in errors["training.model"]


def test_a_disk_without_room_is_an_error_and_endpoints_without_their_key_a_warning(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("umer1_core.doctor.surroundings.shutil.disk_usage", lambda folder: usage)
    annotation = {"model": "some/model", "endpoints": ["http://gpu:8000/v1"], "api_key_env": "NO_SUCH_KEY"}

    examination = run(make_recipe(write_subset(tmp_path / "m", questions(3)), annotation=annotation))

    assert any(error.startswith("disk: 0 GB free") for error in said(examination, "error"))
    warnings = said(examination, "warning")
    assert any("NO_SUCH_KEY is not set" in warning for warning in warnings)
    assert any("hf download some/model" in warning for warning in warnings)


def test_the_same_seed_opens_the_same_rows(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(write_subset(tmp_path / "m", questions(200)))
    first, second = (run(recipe).sources[0].dump() | {"seconds": 0} for _ in range(2))
    assert first == second and first["opened"] == 50


def test_the_table_fits_a_terminal_and_the_json_holds_everything(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    examination = run(make_recipe(write_subset(tmp_path / "m", questions(30), subset="N24News"), tmp_path / "no"))
    sink = io.StringIO()

    print_examination(examination, Console(file=sink, width=100))

    assert max(map(len, sink.getvalue().splitlines())) <= 100
    assert sink.getvalue().index("error") < sink.getvalue().index("warning"), "the worst first"
    whole = json.loads(json.dumps(examination.dump()))
    assert whole["level"] == "error" and whole["sources"][0]["source"] == "mmeb/N24News"
    assert {verdict["level"] for verdict in whole["verdicts"]} == {"ok", "warning", "error"}


def test_tokens_are_squares_of_28_pixels_two_frames_and_four_characters() -> None:
    rules = MediaRules(max_pixels=784 * 100)
    assert media_tokens(Media("image", "a", width=280, height=140), rules) == 50
    assert media_tokens(Media("image", "a", width=2_800, height=1_400), rules) == 100, "shown at the limit"
    assert media_tokens(Media("video", "a", frames=("1",) * 8, width=56, height=56), rules) == 16
    assert text_tokens("four") == 1 and text_tokens("漢字") == 2
