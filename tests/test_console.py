"""What the terminal says of a data set."""

import io
from typing import Any

from rich.console import Console

from umer1_core.console import print_summary, token_line
from umer1_core.store import Store

OLD: dict[str, Any] = {"completion_tokens": 1_000, "useful_tokens": 700, "wasted_tokens": 300, "saved_tokens": 2_500}


def test_the_token_line_tells_kinds_of_waste_and_savings_apart() -> None:
    outcomes = {"rejected": {"completion_tokens": 250}, "cut": {"completion_tokens": 50}}
    saved = {"taken_over": {"completion_tokens": 400}}
    line = token_line(OLD | {"outcomes": outcomes, "saved": saved})
    assert line == "70.0% useful, 25.0% rejected, 5.0% retried; 2,500 more saved; 400 taken over"


def test_the_token_line_is_written_from_a_manifest_of_the_first_schema_version_too() -> None:
    assert token_line(OLD) == "70.0% useful, 30.0% rejected; 2,500 more saved"


def test_nothing_generated_is_no_division_by_zero() -> None:
    assert token_line(dict.fromkeys(OLD, 0)) == "0.0% useful"


def summary(store: Store) -> str:
    printed = io.StringIO()
    print_summary(store, Console(file=printed, width=100))
    return printed.getvalue()


def test_the_summary_shows_scores_before_and_after_grpo_and_what_a_guard_stopped(tmp_path) -> None:
    store = Store(str(tmp_path))
    ledger = dict.fromkeys(("sides", "saved_generations", "annotated", "failed"), 0) | OLD
    manifest = {"name": "x", "version": 1, "funnel": [], "ledger": ledger, "data_hash": "h", "recipe": {}}
    store.write_json("manifest.json", manifest)
    hits = {"generative": 0.892, "discriminative": 0.888, "oracle": 0.93, "chance": 0.06}
    scores = {"overall": hits | {"queries": 60}, "untrained": hits, "pooled": hits | {"candidates": 50}}
    store.write_json("scores.json", scores)
    before = summary(store)
    assert "untrained" in before and "GRPO" not in before

    store.write_json("scores.json", scores | {"sft": hits | {"generative": 0.803}, "sft_pooled": hits})
    report = {"model": "m", "steps": 30, "rejected_pairs": 0, "stopped": "Step 34: gap [low]."}
    store.write_json("grpo/finished.json", {"report": report})
    store.write_bytes("grpo/report.md", b"# What changed\n\n**up**.\n")
    after = summary(store)
    assert all(name in after for name in ("GRPO, pooled", "SFT, pooled", "0.803", "grpo/report.md"))
    assert "GRPO was stopped by a guard. Step 34: gap [low]. The kept model is that of step 30." in after
