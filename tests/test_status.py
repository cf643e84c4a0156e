"""The stages that `umer1 status` lists."""

from umer1_core.status import enter_stage, read_status
from umer1_core.store import Store


def names(store: Store) -> list[str]:
    return [stage.stage for stage in read_status(store).stages]


def test_training_is_not_listed_where_the_recipe_asks_for_none(tmp_path) -> None:
    store = Store(str(tmp_path))
    enter_stage(store, "sampling", sources=3, training=False)
    assert names(store) == ["sampling", "annotation", "filtering", "publishing", "validation"]
    store.write_json("sft/progress.json", {"step": 1, "steps": 4})  # `umer1 train` by hand
    assert names(store)[-2:] == ["sft", "evaluation"]


def test_a_run_that_has_not_begun_lists_every_stage_with_nothing_done(tmp_path) -> None:
    assert names(Store(str(tmp_path)))[-2:] == ["sft", "evaluation"]
    assert not any(stage.done for stage in read_status(Store(str(tmp_path))).stages)
