"""The task that filters a shard opens the tokenizer once; a changed threshold needs it no more."""

import pytest
from prefect.logging import disable_run_logger
from tokenizers import Tokenizer, models, pre_tokenizers

from tasks import filtering
from umer1_core.errors import RecipeError
from umer1_core.recipes import parse_recipe
from umer1_core.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "red": 1}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    store = Store(str(tmp_path / "v1"))
    row = {"side_key": "a", "source": "s"}
    store.write_shard("sides", "00000", [row | {"modality": "image", "uses": 1, "text": "", "media": []}])
    text = "<think>red and blue</think><answer>red</answer>"
    answer = {"sample": 0, "completion": text, "finish_reason": "stop", "completion_tokens": 5}
    store.write_shard("annotations", "00000", [row | answer])
    return store


def judge(store: Store, **filters: object) -> dict:
    tokenizer = f"{store.root.rpartition('/')[0]}/tokenizer.json"
    recipe = parse_recipe(
        {
            "name": "x",
            "output": store.root,
            "sources": [{"kind": "vidore", "root": "/nowhere"}],
            "annotation": {"model": "m", "endpoints": ["http://127.0.0.1:1/v1"]},
            "filters": {"tokenizer": tokenizer} | filters,
        }
    )
    with disable_run_logger():
        filtering.judge.fn("00000", recipe, store.root)
    return next(store.iterate("verdicts"))


def test_a_changed_threshold_needs_no_tokenizer_and_a_changed_tokenizer_does(store, monkeypatch):
    assert judge(store)["kept"]
    monkeypatch.setattr(filtering, "load_tokenizer", lambda name: pytest.fail("the tokenizer was opened"))
    assert judge(store, max_reasoning_tokens=2)["reasons"] == ["too_long"]
    monkeypatch.undo()
    Store(store.root.rpartition("/")[0]).write_bytes("tokenizer.json", b"broken")
    with pytest.raises(RecipeError, match="no tokenizer can be read"):
        judge(store)
