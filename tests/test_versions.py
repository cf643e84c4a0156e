"""The same recipe comes back to its version; another one, and a re-annotation, opens the next."""

import threading
import time
from pathlib import Path

import pytest
import yaml

from tests.test_recipes import SMALL
from umer1_core.errors import RecipeError, StorageError
from umer1_core.recipes import parse_recipe
from umer1_core.versions import (
    Version,
    exclusive,
    is_held,
    newest,
    open_build,
    open_reannotation,
    open_redrive,
    parents_of,
    recipe_at,
    resolve,
)


def recipe(tmp_path, **changes):
    return parse_recipe(SMALL | {"output": str(tmp_path / "out")} | changes)


def test_the_same_recipe_comes_back_to_the_same_version(tmp_path):
    first = open_build(recipe(tmp_path), "a")
    assert open_build(recipe(tmp_path), "a") == first and first.number == 1 and first.parent == ""


def test_training_and_validation_settings_make_no_new_version(tmp_path):
    first = open_build(recipe(tmp_path), "a")
    assert open_build(recipe(tmp_path, training={"steps": 3}, validation={"min_pairs": 5}), "a") == first


@pytest.mark.parametrize(
    "change",
    [
        {"filters": {"max_reasoning_tokens": 9}},
        {"seed": 1},
        {"annotation": SMALL["annotation"] | {"samples": 2}},
        {"annotation": SMALL["annotation"] | {"shard_rows": 7}},
    ],
)
def test_a_changed_data_part_opens_the_next_version_with_the_old_one_as_parent(tmp_path, change):
    first = open_build(recipe(tmp_path), "a")
    second = open_build(recipe(tmp_path, **change), "a")
    assert second.number == 2 and second.parent == first.root


def test_another_annotator_opens_the_next_version(tmp_path):
    open_build(recipe(tmp_path), "a")
    assert open_build(recipe(tmp_path), "b").number == 2


def test_an_unfinished_reannotation_is_gone_on_with(tmp_path):
    open_build(recipe(tmp_path), "a").store.write_json("manifest.json", {})
    second = open_reannotation(recipe(tmp_path), "a")
    assert open_reannotation(recipe(tmp_path), "a") == second and second.mode == "reannotate"
    second.store.write_json("manifest.json", {})
    assert open_reannotation(recipe(tmp_path), "a").number == 3


def finished(version: Version) -> Version:
    recipe_ = recipe(Path(version.root).parents[1])
    version.store.write_json("manifest.json", {"recipe": recipe_.dump()})
    return version


def test_a_redrive_is_the_next_version_and_is_gone_on_with_until_it_is_finished(tmp_path):
    first = finished(open_build(recipe(tmp_path), "a"))
    second = open_redrive(recipe(tmp_path), "a", "timeout")
    assert (second.mode, second.reason, second.parent) == ("redrive", "timeout", first.root)
    assert open_redrive(recipe(tmp_path), "a", "timeout") == second
    with pytest.raises(StorageError, match=r"reason timeout.*Finish it"):
        open_redrive(recipe(tmp_path), "a", "bad_input")
    finished(second)
    assert open_redrive(recipe(tmp_path), "a", "timeout").number == 3


def test_a_redrive_of_an_unfinished_build_is_refused(tmp_path):
    open_build(recipe(tmp_path), "a")
    with pytest.raises(StorageError, match="is not finished"):
        open_redrive(recipe(tmp_path), "a")


def test_a_redrive_that_would_ask_for_more_than_the_dead_letters_is_refused(tmp_path):
    finished(open_build(recipe(tmp_path), "a"))
    for changed, annotator in ((recipe(tmp_path), "b"), (recipe(tmp_path, seed=1), "a")):
        with pytest.raises(RecipeError, match="not the one that"):
            open_redrive(changed, annotator)
    assert newest(str(tmp_path / "out")).number == 1


def test_the_recipe_of_a_data_set_is_found_by_its_version_by_its_output_and_by_its_file(tmp_path):
    version = finished(open_build(recipe(tmp_path), "a"))
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(recipe(tmp_path).dump()))
    found = {recipe_at(place).output for place in (version.root, str(tmp_path / "out"), str(file))}
    assert found == {str(tmp_path / "out")}


def test_a_data_set_that_was_moved_is_redriven_where_it_lies_and_still_knows_its_parent(tmp_path):
    finished(open_build(recipe(tmp_path), "a"))
    finished(open_redrive(recipe(tmp_path), "a"))
    (tmp_path / "out").rename(tmp_path / "moved")
    assert recipe_at(str(tmp_path / "moved")).output == str(tmp_path / "moved")
    assert newest(str(tmp_path / "moved")).parent == str(tmp_path / "moved/v1")


def test_an_older_version_and_an_unfinished_data_set_have_no_recipe_to_go_on_with(tmp_path):
    first = open_build(recipe(tmp_path), "a")
    with pytest.raises(StorageError, match="no finished data set"):
        recipe_at(first.root)
    finished(first)
    finished(open_redrive(recipe(tmp_path), "a"))
    with pytest.raises(StorageError, match=r"not the newest finished version.*v2"):
        recipe_at(first.root)
    with pytest.raises(StorageError, match="There is no data set at"):
        recipe_at(str(tmp_path / "nowhere"))


def test_answers_are_taken_over_from_the_versions_back_to_a_finished_one_then_from_other_data_sets(tmp_path):
    other = open_build(recipe(tmp_path / "other"), "a")
    asked = recipe(tmp_path, annotation=SMALL["annotation"] | {"reuse": [str(tmp_path / "other/out")]})
    first = open_build(asked, "a")
    second, third = open_build(asked, "b"), open_build(asked, "c")
    assert parents_of(third, asked) == [second.root, first.root, other.root]
    finished(second)
    assert parents_of(third, asked) == [second.root, other.root]
    assert parents_of(first, asked) == [other.root]


def test_a_data_set_to_reuse_that_is_not_there_is_an_error_and_not_paid_for_silently(tmp_path):
    asked = recipe(tmp_path, annotation=SMALL["annotation"] | {"reuse": [str(tmp_path / "typo")]})
    with pytest.raises(StorageError, match=r"annotation\.reuse.*typo"):
        parents_of(open_build(asked, "a"), asked)


def test_nothing_to_reannotate_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(StorageError, match="umer1 build"):
        open_reannotation(recipe(tmp_path), "a")


def test_a_version_is_found_by_its_root_and_by_its_output(tmp_path):
    version = open_build(recipe(tmp_path), "a")
    assert resolve(version.root).root == resolve(str(tmp_path / "out")).root == version.root
    found = newest(str(tmp_path / "out"))
    assert found == version


def test_a_second_writer_may_wait_for_the_first(tmp_path):
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with exclusive(str(tmp_path), "build", said.append):
            order.append("second")

    with exclusive(str(tmp_path), "build"):
        thread = threading.Thread(target=second)
        thread.start()
        while not said:
            time.sleep(0.01)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"] and "Waiting for it" in said[0]


def test_two_writers_do_not_share_a_root(tmp_path):
    with exclusive(str(tmp_path), "build"):
        assert is_held(str(tmp_path), "build") and not is_held(str(tmp_path), "train")
        with pytest.raises(StorageError, match="Another run is at work"), exclusive(str(tmp_path), "build"):
            pass
    assert not is_held(str(tmp_path), "build")
