"""What a run needs beside its sources: a place to write, room on the disk, models, endpoints."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from schemas.recipe import Recipe
from umer1_core.doctor.verdicts import Verdict
from umer1_core.errors import StorageError, Umer1Error, safe_url
from umer1_core.recipes import MINIATURE, locate_model
from umer1_core.store import Store

_BYTES_A_PAIR = 14_000  # of all tables together, two sides of 1,300 tokens each, compressed
_GB = 1e9


def look_around(recipe: Recipe, pairs: int) -> Iterator[Verdict]:
    """pairs: that the run draws, about."""
    yield _writable(recipe)
    yield from _room(recipe, pairs)
    annotation = recipe.annotation
    if annotation.endpoints or annotation.endpoints_file:
        yield from _endpoints(recipe)
    else:
        yield _model("annotation.model", annotation.model)
    counts = recipe.filters.tokenizer or annotation.model
    if recipe.filters.tokenizer or annotation.endpoints or annotation.endpoints_file:
        yield _model("filters.tokenizer", counts, "tokenizer.json")
    if recipe.training.enabled:
        yield _model("training.model", recipe.training.model)


def _writable(recipe: Recipe) -> Verdict:
    """Writes a small file and removes it."""
    store = Store(recipe.output)
    name = f".doctor-{uuid.uuid4().hex[:8]}"
    try:
        store.write_bytes(name, b"-")
        store.delete(name)
    except StorageError as error:
        return Verdict("error", "output", error.message, error.remedy)
    except Exception as error:  # a driver's own error types: s3fs, gcsfs, …
        where = safe_url(recipe.output)
        return Verdict("error", "output", f"{where} cannot be written: {type(error).__name__}.", "Check `output`.")
    return Verdict("ok", "output", f"{safe_url(recipe.output)} can be written")


def _room(recipe: Recipe, pairs: int) -> Iterator[Verdict]:
    store = Store(recipe.output)
    if not store.local or not pairs:
        return
    folder = Path(store.path)
    while not folder.exists():
        folder = folder.parent
    free, needed = shutil.disk_usage(folder).free, pairs * _BYTES_A_PAIR
    said = f"{free / _GB:,.0f} GB free; {pairs:,} pairs need about {needed / _GB:,.1f} GB"
    if needed > free:
        yield Verdict("error", "disk", said, "Set `output` to another disk, or free some space.")
    else:
        yield Verdict("warning" if 2 * needed > free else "ok", "disk", said, "Later versions need as much again.")


def _endpoints(recipe: Recipe) -> Iterator[Verdict]:
    annotation = recipe.annotation
    listed = len(annotation.endpoints)
    said = f"{listed} in the recipe" if listed else f"listed in {safe_url(annotation.endpoints_file)}"
    if annotation.endpoints_file and not listed and not _there(annotation.endpoints_file):
        remedy = "Write a base URL a line into it."
        yield Verdict("error", "endpoints", f"There is no {safe_url(annotation.endpoints_file)}", remedy)
    else:
        yield Verdict(
            "ok", "endpoints", f"{said}; the run examines each before it begins (model, context, media, tags)"
        )
    if annotation.api_key_env and not os.environ.get(annotation.api_key_env):
        yield Verdict(
            "warning", "endpoints", f"The variable {annotation.api_key_env} is not set here", "Set it for the run."
        )


def _there(uri: str) -> bool:
    parent, _, name = uri.rpartition("/")
    try:
        return Store(parent or ".").exists(name)
    except (OSError, Umer1Error, ValueError):
        return False


def _model(about: str, model: str, file: str = "config.json") -> Verdict:
    """A folder, a name whose files the hub's cache has, or one that must be fetched first."""
    if model == MINIATURE:
        return Verdict("ok", about, "the miniature that ships with umer1")
    folder = Path(locate_model(model)).expanduser()
    if folder.is_dir():
        if (folder / file).is_file():
            return Verdict("ok", about, str(folder))
        return Verdict("error", about, f"{folder} has no {file}", "Download the model again, or correct the path.")
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        return Verdict("error", about, f"There is no folder {model}", "Correct the path, or give a hub name.")
    if isinstance(try_to_load_from_cache(model, file), str):
        return Verdict("ok", about, f"{model}, in the hub's cache")
    return Verdict("warning", about, f"{model} is not on this machine", f"Fetch it before the run: hf download {model}")
