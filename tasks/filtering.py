"""Filtering: one task a shard."""

from prefect import get_run_logger, task
from tokenizers import Tokenizer

from schemas.recipe import Recipe
from tasks.common import TASK_OPTIONS
from umer1_core.filtering.filter import filter_shard, load_tokenizer
from umer1_core.recipes import locate_model
from umer1_core.store import Store, fingerprint
from umer1_core.template import CLEAN_VERSION


def filter_tokenizer(recipe: Recipe) -> Tokenizer:
    """Counts the filters' tokens. Raises RecipeError when it cannot be had."""
    return load_tokenizer(locate_model(recipe.filters.tokenizer or recipe.annotation.model))


@task(name="filter", task_run_name="filter shard {shard}", **TASK_OPTIONS)
def judge(shard: str, recipe: Recipe, root: str) -> str:
    store = Store(root)
    source = store.entry("annotations", shard)
    made_from = fingerprint(source.checksum if source else "", recipe.filters.model_dump(), CLEAN_VERSION)
    tokenizer = filter_tokenizer(recipe)
    entry = filter_shard(store, shard, recipe.filters, tokenizer, made_from)
    sides = sum(counts["kept"] + counts["dropped"] for counts in entry.metrics["by_source"].values())
    get_run_logger().info(
        "shard %s: %d of %d sides kept; %s", shard, entry.metrics["kept"], sides, entry.metrics["reasons"]
    )
    return shard
