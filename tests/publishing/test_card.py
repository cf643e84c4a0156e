"""The card makes the folder a Hugging Face data set, tells how it was made, and holds no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.recipe import Filters
from schemas.tables import TABLES
from tests.publishing.test_report import SOURCES, collect, published, recipe
from umer1_core.errors import safe_url
from umer1_core.publishing.card import CARD, write_card
from umer1_core.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return published(tmp_path)


def card_of(store: Store, **changes: Any) -> str:
    write_card(store, recipe(**changes), collect(store))
    return store.read_bytes(CARD).decode()


def front_matter(card: str) -> dict[str, Any]:
    return dict(yaml.safe_load(card.split("---\n")[1]))


def test_the_folder_loads_with_the_datasets_package_as_the_card_says(store: Store, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    card_of(store)

    for table in ("cold_start", "pairs", "sides", "annotations", "verdicts", "rejections"):
        loaded = datasets.load_dataset(store.root, table, split="train", cache_dir=str(tmp_path / "cache"))
        assert loaded.num_rows == store.read(table).num_rows
        assert loaded.column_names == TABLES[table].names


def test_every_table_with_rows_is_a_configuration_and_cold_start_is_the_default(store: Store) -> None:
    configs = {each["config_name"]: each for each in front_matter(card_of(store))["configs"]}

    assert set(configs) == set(TABLES) - {"rl"}, "rl has no rows here"
    assert configs["cold_start"]["default"] is True
    assert configs["cold_start"]["data_files"] == [{"split": "train", "path": "cold_start/*.parquet"}]


def test_empty_shards_are_left_out_because_datasets_stops_at_them(store: Store) -> None:
    store.write_shard("cold_start", "00001", [])

    (config, *_) = front_matter(card_of(store))["configs"]

    assert config["data_files"] == [{"split": "train", "path": ["cold_start/00000.parquet"]}]


def test_the_card_names_the_endpoints(store: Store) -> None:
    assert "http://gpu-1:8000/v1" in card_of(store)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:hunter2@host:8000/v1?key=sk-1#x", "https://host:8000/v1"),
        ("s3://key:secret@bucket/path", "s3://bucket/path"),
        ("zai-org/GLM-4.1V-9B-Thinking", "zai-org/GLM-4.1V-9B-Thinking"),
        ("/data/models/a@b?c", "/data/models/a@b?c"),
    ],
)
def test_addresses_lose_user_password_and_query(address: str, shown: str) -> None:
    assert safe_url(address) == shown


def test_the_card_says_how_it_was_made_with_thresholds_and_counts(store: Store) -> None:
    card = card_of(store)
    span = f"over {Filters().repeat_min_tokens} tokens"

    for fact in ("org/teacher", "appendix-d/1", "8,192 tokens of reasoning", "4 times or more", span):
        assert fact in card
    for source in SOURCES:
        assert f"| {source} | " in card
    assert "| **all** | | 27 | 6 | 3 | 18 | 3 | 15 | 15 | 0 |" in card


def test_the_card_says_in_one_line_what_the_tokens_bought(store: Store) -> None:
    assert "810 tokens generated: 81.5% useful, 7.4% rejected, 11.1% retried. Pictures" in card_of(store)


def test_the_card_says_how_often_equal_sides_are_annotated(store: Store) -> None:
    annotation = {"model": "org/teacher", "endpoints": ["http://gpu-1:8000/v1"]}

    assert "Equal sides are annotated once," in card_of(store)
    assert "Equal sides are annotated at most 3 times" in card_of(store, annotation=annotation | {"samples": 3})


def test_the_columns_of_every_table_are_listed(store: Store) -> None:
    card = card_of(store)

    for table in set(TABLES) - {"rl"}:
        for column in TABLES[table].names:
            assert f"| `{column}` |" in card.split(f"### {table}\n")[1].split("###")[0]


def test_a_miniature_says_so_in_text_and_tags(store: Store) -> None:
    card = card_of(store, miniature={})

    assert "> **Miniature.**" in card
    assert "miniature" in front_matter(card)["tags"]
    plain = card_of(store)
    assert "Miniature" not in plain and "miniature" not in front_matter(plain)["tags"]
