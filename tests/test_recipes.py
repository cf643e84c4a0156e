"""A recipe's mistake is answered by its field, and what ships with the project loads."""

from pathlib import Path

import pytest
import yaml

from umer1_core.errors import RecipeError
from umer1_core.recipes import load_recipe, miniature_recipe, parse_recipe

ROOT = Path(__file__).parents[1]
SMALL = {
    "name": "x",
    "output": "out",
    "sources": [{"kind": "vidore", "root": "v"}],
    "annotation": {"model": "m"},
}


@pytest.mark.parametrize("path", sorted((ROOT / "deploy/recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_every_recipe_that_ships_is_valid(path):
    load_recipe(path)


def test_the_miniatures_folders_do_not_depend_on_where_the_worker_runs():
    recipe = miniature_recipe()
    assert all(Path(source.root).is_absolute() for source in [*recipe.sources, *recipe.evaluation.sources])
    assert Path(recipe.output).is_absolute()


def test_a_typo_is_answered_with_the_field_that_was_meant(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"annotation": {"model": "m", "concurency": 4}}))
    with pytest.raises(RecipeError, match=r"annotation\.concurency.*Did you mean `concurrency`"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": []}, "sources"),
        ({"sources": [{"kind": "mbeb", "root": "x"}]}, "sources"),
        ({"annotation": {"model": "m", "concurrency": 0}}, r"annotation\.concurrency"),
        ({"annotation": {"model": "m", "endpoints": ["http://u:secret@h/v1"]}}, "api_key_env"),
        ({"annotation": {"model": "m", "endpoints": ["http://h/v1?key=secret"]}}, "api_key_env"),
        ({"output": "s3://key:secret@bucket/x"}, "output"),
        ({"name": "Not A Name"}, "name"),
    ],
)
def test_a_wrong_value_is_named_by_its_field(change, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(SMALL | change)


def test_a_password_in_an_endpoint_is_not_repeated_in_the_error():
    with pytest.raises(RecipeError) as raised:
        parse_recipe(SMALL | {"annotation": {"model": "m", "endpoints": ["http://u:hunter2@h/v1"]}})
    assert "hunter2" not in str(raised.value)


def test_a_missing_file_and_broken_yaml_are_told_apart(tmp_path):
    with pytest.raises(RecipeError, match="There is no recipe at"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(tmp_path / "broken.yaml")
