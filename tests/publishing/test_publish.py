"""The manifest says what was made, from what, and what is shared with the parent."""

from pathlib import Path

import pytest

from schemas.recipe import Annotation, Publishing, Recipe
from schemas.sources import VidoreSource
from tests.publishing.test_tables import drop
from umer1_core.publishing.card import render_card
from umer1_core.publishing.publish import publish
from umer1_core.publishing.report import write_report
from umer1_core.store import Store, content_hash
from umer1_core.versions import Version


def recipe(**changes) -> Recipe:
    settings = {"rl_pairs": 6, "rl_image_sources": [], "shard_rows": 4} | changes
    sources = [VidoreSource(root="unused")]
    annotation = Annotation(model="org/teacher")
    return Recipe(name="x", output="o", sources=sources, annotation=annotation, publishing=Publishing(**settings))


def version(judged: Store, folder: Path, number: int) -> Version:
    """A version with the judged tables, whose parent is the one before."""
    root, parent = str(folder / f"out/v{number}"), str(folder / f"out/v{number - 1}") if number > 1 else ""
    made = Version(root, number, parent, "build", "", "2026-01-01T00:00:00+00:00")
    for table in ("pairs", "rejections", "sides", "annotations", "attempts", "verdicts"):
        for entry in judged.entries(table):
            made.store.adopt(judged, entry)
    made.store.write_json("version.json", {"number": number, "parent": parent})
    return made


def test_a_child_shares_what_did_not_change_and_says_so(judged, tmp_path):
    first, second = version(judged, tmp_path, 1), version(judged, tmp_path, 2)
    before = publish(first, recipe(), "a")
    drop(second.store, "mmeb/CIRR q1")
    after = publish(second, recipe(), "a")
    shards = len(before["tables"]["cold_start"])
    assert shards - 1 <= after["shared_shards"]["cold_start"] < shards
    assert before["data_hash"] != after["data_hash"]
    cold_start, rl = (second.store.entries(table) for table in ("cold_start", "rl"))
    assert after["data_hash"] == content_hash([*cold_start, *rl])


def test_the_same_rows_have_the_same_hash_whether_shared_or_written(judged, tmp_path):
    first, second = version(judged, tmp_path, 1), version(judged, tmp_path, 2)
    alone = version(judged, tmp_path / "elsewhere", 1)
    hashes = {publish(each, recipe(), "a")["data_hash"] for each in (first, second, alone)}
    assert len(hashes) == 1
    assert not any(entry.shared_with for entry in alone.store.entries("cold_start"))


def test_a_parent_that_was_never_finished_is_nothing_to_share_with(judged, tmp_path):
    version(judged, tmp_path, 1)
    manifest = publish(version(judged, tmp_path, 2), recipe(), "a")
    assert manifest["shared_shards"]["cold_start"] == 0


def test_only_the_rl_table_is_made_anew_when_only_its_settings_change(judged, tmp_path):
    first, second = version(judged, tmp_path, 1), version(judged, tmp_path, 2)
    before = publish(first, recipe(), "a")
    after = publish(second, recipe(rl_pairs=3), "a")
    assert after["shared_shards"]["cold_start"] == len(before["tables"]["cold_start"])
    assert after["shared_shards"]["rl"] == 0 and sum(row["taken"] for row in after["rl_table"]) == 3


@pytest.mark.parametrize("where", ["card", "report"])
def test_the_rl_table_stands_in_card_and_report(judged, tmp_path, where):
    made = version(judged, tmp_path, 1)
    manifest = publish(made, recipe(), "a")
    if where == "card":
        text = render_card(recipe(), manifest, made.root)
        assert "| video | llava_hound/qa | llava_hound/qa | 2 | 6 | 2 | 2 | 2 | 0 |" in text
    else:
        text = Path(write_report(made.store, recipe())).read_text()
        assert "What reinforcement learning gets" in text and "Against the published counts" in text
        assert "<td>mmeb/CIRR</td><td>6</td><td>4</td><td>66.7 %</td><td>26,100</td>" in text


def test_the_card_points_to_terms_and_states_no_licence(judged, tmp_path):
    text = render_card(recipe(), publish(version(judged, tmp_path, 1), recipe(), "a"), "x")
    assert "## Licences" in text and "openbmb/VisRAG-Ret-Train-In-domain-data" in text
    assert "\nlicense" not in text and "Apache" not in text and "CC-BY" not in text
