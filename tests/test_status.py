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


def test_grpo_is_listed_between_training_and_evaluation_where_it_is_wanted_or_was_done(tmp_path) -> None:
    store = Store(str(tmp_path))
    enter_stage(store, "sft", grpo=True)
    assert names(store)[-3:] == ["sft", "grpo", "evaluation"]
    enter_stage(store, "sft", grpo=False)
    assert names(store)[-2:] == ["sft", "evaluation"]
    store.write_json("grpo/progress.json", {"step": 1, "steps": 4, "reward": 1.5})  # `umer1 grpo` by hand
    assert names(store)[-3:] == ["sft", "grpo", "evaluation"]


def test_a_training_that_a_guard_stopped_is_at_its_end_and_says_why(tmp_path) -> None:
    store = Store(str(tmp_path))
    store.write_json("grpo/progress.json", {"step": 34, "steps": 60, "reward": 1.5})
    stage = read_status(store).stages[-2]
    assert not stage.finished and stage.note == "reward 1.500"
    store.write_json("grpo/finished.json", {"report": {"stopped": "Step 34: gap is 0.1."}})
    stage = read_status(store).stages[-2]
    assert stage.finished and (stage.done, stage.total) == (34, 60)
    assert stage.note == "stopped by a guard. Step 34: gap is 0.1."
