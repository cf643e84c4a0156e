"""Held-out pairs are sampled as training pairs are, and made anew when what they are made from changes."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from prefect.logging import disable_run_logger

from schemas.recipe import Recipe
from schemas.sources import MediaRules, MmebSource
from tasks import sampling
from tests.sampling.files import only
from tests.test_recipes import SMALL
from umer1_core.recipes import parse_recipe
from umer1_core.sampling import sample
from umer1_core.sampling.held_out import held_out_tables
from umer1_core.sampling.sample import source_fingerprint
from umer1_core.store import Store

ROWS = [{"qry": f"q{n}", "qry_image_path": f"images/{n}.jpg", "pos_text": f"a{n}"} for n in range(3)]


def evaluated(*sources: MmebSource) -> Recipe:
    named = [source.model_dump() for source in sources]
    return parse_recipe(SMALL | {"evaluation": {"sources": named}})


def made_from(store: Store) -> set[str]:
    return {entry.fingerprint for table in ("pairs", "rejections") for entry in store.entries(table)}


def test_held_out_pairs_stand_in_tables_beside_the_data_set(mmeb: Callable[..., MmebSource], store: Store) -> None:
    held_out = held_out_tables(evaluated(mmeb(ROWS)), store.root)
    assert held_out.root == f"{store.root}/held_out" and not store.entries("pairs")
    assert held_out.read("pairs").num_rows == 3


def test_a_recipe_that_holds_nothing_out_has_empty_tables(store: Store) -> None:
    assert held_out_tables(evaluated(), store.root).entries("pairs") == []


def test_held_out_pairs_and_training_pairs_are_made_from_the_same(
    mmeb: Callable[..., MmebSource], store: Store
) -> None:
    recipe = evaluated(mmeb(ROWS))
    with disable_run_logger():
        sampling.sample.fn(only(*recipe.evaluation.sources), recipe, store.root)
    held_out = held_out_tables(recipe, store.root)
    assert made_from(held_out) == made_from(store) != {""}


def test_held_out_pairs_are_sampled_again_only_under_another_schema(
    mmeb: Callable[..., MmebSource], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = evaluated(mmeb(ROWS))
    held_out = held_out_tables(recipe, store.root)
    before, stamp = made_from(held_out), held_out.fs.modified(held_out.at("pairs/mmeb-OK-VQA-00000.parquet"))

    held_out_tables(recipe, store.root)
    assert held_out.fs.modified(held_out.at("pairs/mmeb-OK-VQA-00000.parquet")) == stamp

    monkeypatch.setattr(sample, "SCHEMA_VERSION", "another")
    held_out_tables(recipe, store.root)
    assert not made_from(held_out) & before
    assert held_out.fs.modified(held_out.at("pairs/mmeb-OK-VQA-00000.parquet")) != stamp


def test_source_seed_media_rules_and_schemas_each_change_what_tables_are_made_from(
    mmeb: Callable[..., MmebSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, rules = only(mmeb(ROWS)), MediaRules()
    first = source_fingerprint(spec, 0, rules)
    assert source_fingerprint(replace(spec), 0, MediaRules()) == first
    others = [
        source_fingerprint(replace(spec, limit=spec.limit - 1), 0, rules),
        source_fingerprint(spec, 1, rules),
        source_fingerprint(spec, 0, MediaRules(verify="decode")),
    ]
    monkeypatch.setattr(sample, "SCHEMA_VERSION", "another")
    assert len({first, *others, source_fingerprint(spec, 0, rules)}) == 5
