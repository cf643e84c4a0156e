"""Recipes read from YAML, with mistakes named by field; a typo is answered with the field that was meant."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from schemas.recipe import Recipe
from schemas.sources import DatasetSource, Section, Source
from umer1_core.errors import RecipeError

MINIATURE = "miniature"  # the name under which recipes call the models that ship with the package
MINIATURE_FOLDER = Path(__file__).parent / "miniature"


def locate_model(name: str) -> str:
    """Where a model lies: a folder or hub name is itself; `miniature` is the teacher that ships with the package."""
    return str(MINIATURE_FOLDER / "teacher") if name == MINIATURE else name


def miniature_recipe() -> Recipe:
    """The recipe behind `make quickstart`."""
    return load_recipe(MINIATURE_FOLDER / "recipe.yaml")


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe. Raises RecipeError that names the field and, for a typo, the field that was meant."""
    file = Path(path)
    if not file.is_file():
        raise RecipeError(f"There is no recipe at {file}.", "Give the path of a YAML file; see deploy/recipes/.")
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise RecipeError(f"{file} is not valid YAML: {error}.") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{file} holds no fields.", "See deploy/recipes/ for an example.")
    return absolute(parse_recipe(content, str(file)))


def parse_recipe(content: dict[str, Any], where: str = "the recipe") -> Recipe:
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors()]
        raise RecipeError(f"{where} has {len(lines)} mistake(s):\n  " + "\n  ".join(lines)) from error


def absolute(recipe: Recipe) -> Recipe:
    """Relative folders are taken from where the command runs: the worker may run elsewhere."""
    sources = [_absolute_source(source) for source in recipe.sources]
    held_out = [_absolute_source(source) for source in recipe.evaluation.sources]
    world, annotation, ranks = recipe.miniature, recipe.annotation, recipe.publishing.rl_ranks
    listed = annotation.endpoints_file and _absolute(annotation.endpoints_file)
    known = {"reuse": [_absolute(root) for root in annotation.reuse], "endpoints_file": listed}
    changes: dict[str, Any] = {
        "annotation": annotation.model_copy(update=known),
        "output": _absolute(recipe.output),
        "sources": sources,
        "publishing": recipe.publishing.model_copy(update={"rl_ranks": ranks and _absolute(ranks)}),
        "evaluation": recipe.evaluation.model_copy(update={"sources": held_out}),
        "miniature": world and world.model_copy(update={"root": _absolute(world.root)}),
    }
    return recipe.model_copy(update=changes)


def _absolute_source(source: Source) -> Source:
    places: dict[str, Any] = {}
    if getattr(source, "root", ""):
        places["root"] = _absolute(source.root)
    if not isinstance(source, DatasetSource) and hasattr(source, "files"):
        places["files"] = [_absolute(file) for file in source.files]
    if isinstance(source, DatasetSource) and Path(source.path).expanduser().exists():
        places["path"] = _absolute(source.path)  # anything else is a name on the hub
    return source.model_copy(update=places)


def _absolute(uri: str) -> str:
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def _explain(item: Any) -> str:
    field = ".".join(str(part) for part in item["loc"])
    if item["type"] != "extra_forbidden":
        # A validator of ours says all that is needed, and what was given may be a secret.
        given = "" if item["type"] == "value_error" else f" (got {item['input']!r:.80})"
        return f"{field}: {item['msg']}{given}"
    known = _field_names(Recipe)
    close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
    return f"{field}: there is no such field." + (f" Did you mean `{close[0]}`?" if close else "")


def _field_names(model: type[BaseModel]) -> set[str]:
    models: list[type[BaseModel]] = [model, *Section.__subclasses__()]
    return {name for each in models for name in each.model_fields}
