"""Recipes read from YAML, with mistakes named by field; a typo is answered with the field that was meant."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from schemas.recipe import Recipe, Section
from umer1_core.errors import RecipeError


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
    return parse_recipe(content, str(file))


def parse_recipe(content: dict[str, Any], where: str = "the recipe") -> Recipe:
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors()]
        raise RecipeError(f"{where} has {len(lines)} mistake(s):\n  " + "\n  ".join(lines)) from error


def _explain(item: Any) -> str:
    field = ".".join(str(part) for part in item["loc"])
    if item["type"] != "extra_forbidden":
        return f"{field}: {item['msg']} (got {item['input']!r:.80})"
    known = _field_names(Recipe)
    close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
    return f"{field}: there is no such field." + (f" Did you mean `{close[0]}`?" if close else "")


def _field_names(model: type[BaseModel]) -> set[str]:
    models: list[type[BaseModel]] = [model, *Section.__subclasses__()]
    return {name for each in models for name in each.model_fields}
