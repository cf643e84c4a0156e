"""Filtering: one task a shard."""

from prefect import get_run_logger, task
from tokenizers import Tokenizer

from schemas.recipe import Recipe
from tasks.common import TASK_OPTIONS
from umer1_core.filtering import filter_shard, load_tokenizer, scores_fingerprint, tokenizer_identity
from umer1_core.recipes import locate_model
from umer1_core.store import Store, fingerprint


def filter_tokenizer(recipe: Recipe) -> Tokenizer:
    """Counts the filters' tokens. Raises RecipeError when it cannot be had."""
    return load_tokenizer(_tokenizer_name(recipe))


@task(name="filter", task_run_name="filter shard {shard}", **TASK_OPTIONS)
def judge(shard: str, recipe: Recipe, root: str) -> str:
    store = Store(root)
    scores = scores_fingerprint(store, shard, tokenizer_identity(_tokenizer_name(recipe)))
    made_from = fingerprint(scores, recipe.filters.model_dump())
    # Opened only where completions have to be read: other thresholds need the stored scores alone.
    entry = filter_shard(store, shard, recipe.filters, lambda: filter_tokenizer(recipe), made_from, scores)
    sides = sum(counts["kept"] + counts["dropped"] for counts in entry.metrics["by_source"].values())
    get_run_logger().info(
        "shard %s: %d of %d sides kept; dropped for %s, flagged for %s",
        shard,
        entry.metrics["kept"],
        sides,
        entry.metrics["reasons"],
        entry.metrics["flags"],
    )
    return shard


def _tokenizer_name(recipe: Recipe) -> str:
    return locate_model(recipe.filters.tokenizer or recipe.annotation.model)
