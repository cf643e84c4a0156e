"""The same recipe comes back to its version; another one, and a re-annotation, opens the next."""

import threading
import time

import pytest

from tests.test_recipes import SMALL
from umer1_core.errors import StorageError
from umer1_core.recipes import parse_recipe
from umer1_core.versions import exclusive, is_held, newest, open_build, open_reannotation, resolve


def recipe(tmp_path, **changes):
    return parse_recipe(SMALL | {"output": str(tmp_path / "out")} | changes)


def test_the_same_recipe_comes_back_to_the_same_version(tmp_path):
    first = open_build(recipe(tmp_path), "a")
    assert open_build(recipe(tmp_path), "a") == first and first.number == 1 and first.parent == ""


def test_training_and_validation_settings_make_no_new_version(tmp_path):
    first = open_build(recipe(tmp_path), "a")
    assert open_build(recipe(tmp_path, training={"steps": 3}, validation={"min_pairs": 5}), "a") == first


@pytest.mark.parametrize("change", [{"filters": {"max_reasoning_tokens": 9}}, {"seed": 1}])
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
