"""The Great Expectations suites, as plain configurations: what a data set must satisfy before it is trained on.

`suites(validation)` gives one list per frame of `umer1_core.validation.metrics`; the thresholds are the recipe's.
Missing values satisfy every comparison in Great Expectations, so null counts are columns and have their own checks.
"""

from __future__ import annotations

from typing import Any

from schemas.recipe import Validation
from umer1_core.template import ANSWER_OPEN, DISC_EMB, GEN_EMB, THINK_CLOSE, THINK_OPEN

Config = dict[str, Any]

KEY_FORM = r"\A[0-9a-f]{32}\Z"
RESPONSE_FORM = (
    rf"(?s)\A{THINK_OPEN}(?!\s*{THINK_CLOSE})(?:(?!{THINK_OPEN}|{ANSWER_OPEN}|{GEN_EMB}).)+?{THINK_CLOSE}"
    rf"{ANSWER_OPEN}\s*\S(?:(?!{GEN_EMB}).)*{GEN_EMB}\Z"
)
PROMPT_FORM = rf"(?s).*{DISC_EMB}"
RESPONSE_END = rf"(?s).*{GEN_EMB}\Z"
MODALITIES = ["image", "video", "visdoc"]
_PUBLISHED_POINTS = 15
_KEYS = ["pair_id", "query_key", "target_key"]
_PROMPTS = ["query_prompt", "target_prompt"]
_RESPONSES = ["query_response", "target_response"]


def suites(validation: Validation) -> dict[str, list[Config]]:
    """Every suite by the name of the frame it is for."""
    return {
        "data set": dataset_suite(validation),
        "tables": tables_suite(),
        "totals": [_exactly("difference", 0, "Tables that belong together have counts that agree.")],
        "sources": sources_suite(validation),
        "published": [
            _at_most("points_off_published", _PUBLISHED_POINTS, "Kept share against the published one, in points.")
        ],
        "modalities": [_at_least("rl_balance", validation.min_rl_balance, "`validation.min_rl_balance`")],
        "blocks": blocks_suite(),
        "pairs": _pair_table_suite(),
        "sides": sides_suite(),
        "annotations": annotations_suite(validation),
        "attempts": attempts_suite(),
        "verdicts": verdicts_suite(validation),
        "cold_start": cold_start_suite(validation),
        "rl": _pair_table_suite(),
        "sample": sample_suite(),
    }


def dataset_suite(validation: Validation) -> list[Config]:
    return [
        _at_least("cold_start_pairs", validation.min_pairs, "`validation.min_pairs`"),
        _at_least("kept_fraction", validation.min_kept_fraction, "`validation.min_kept_fraction`, of the pairs"),
    ]


def tables_suite() -> list[Config]:
    return [
        _at_least("shards", 1, "Every table was written, if only as one empty shard."),
        _at_least("rows", 1, "A data set is made of something; cold_start and rl may be empty."),
    ]


def sources_suite(validation: Validation) -> list[Config]:
    """What cannot be compared (no parent, no held-out pairs, too few pairs) is None and fails nothing."""
    return [
        _at_least("pairs", 1, "A source that was read has pairs."),
        _at_most("rejected_fraction", validation.max_rejected_fraction, "`validation.max_rejected_fraction`"),
        _at_most("leaked_fraction", validation.max_leaked_fraction, "`validation.max_leaked_fraction`"),
        _at_most("kept_drift", validation.max_kept_drift, "`validation.max_kept_drift`, against the parent version"),
        _at_most("repeated_fraction", validation.max_repeated_fraction, "`validation.max_repeated_fraction`"),
    ]


def blocks_suite() -> list[Config]:
    return [
        _exactly("sources", 1, "A block of the RL set holds pairs of one source: they are each other's negatives."),
        _exactly("lacking_pairs", 0, "Blocks are whole: all have the size in the manifest."),
    ]


def cold_start_suite(validation: Validation) -> list[Config]:
    return [
        *_pair_table_suite(),
        _exactly("form_share", 1, "Every response parses as <think>…</think><answer>…<gen_emb>."),
        _exactly("empty_summaries", 0, "A side without a summary teaches an empty embedding."),
        _exactly("null_provenance_fields", 0, "Every row says where it stood and whose answers it has."),
        _at_most("prompt_chars_max", validation.max_chars, "`validation.max_chars`"),
        _at_most("response_chars_max", validation.max_chars, "`validation.max_chars`"),
    ]


def sides_suite() -> list[Config]:
    return [
        _intact(),
        _exactly("missing_values", 0, "Nothing is missing."),
        _exactly("duplicate_side_keys", 0, "A side stands once."),
    ]


def annotations_suite(validation: Validation) -> list[Config]:
    return [
        _intact(),
        _exactly("null_side_key", 0, "An annotation belongs to a side."),
        _at_most(
            "error_fraction", validation.max_error_fraction, "`validation.max_error_fraction`, of the annotations"
        ),
    ]


def attempts_suite() -> list[Config]:
    return [
        _intact(),
        _exactly("null_side_key", 0, "An attempt belongs to a side."),
        _exactly("unknown_outcomes", 0, "Every answered request has an outcome that the ledger knows."),
    ]


def verdicts_suite(validation: Validation) -> list[Config]:
    minimum = validation.min_shard_kept_fraction
    return [
        _intact(),
        _exactly("null_kept", 0, "Every annotation is judged."),
        _exactly("null_scores", 0, "Every verdict has all its scores: other thresholds are tried on them."),
        _exactly("contradictory_verdicts", 0, "An annotation is dropped when it has a reason, and only then."),
        _exactly("flags_that_are_reasons", 0, "A flag is what the recipe does not drop for."),
        _exactly("incomplete_repeat_profiles", 0, "A profile has a number for every count of copies."),
        _at_least("kept_fraction", minimum, "`validation.min_shard_kept_fraction`, of the annotations"),
    ]


def sample_suite() -> list[Config]:
    """Of rows of cold_start, read whole."""
    columns = [*_KEYS, "source", "modality", *_PROMPTS, *_RESPONSES]
    return [
        *(_config("expect_column_values_to_not_be_null", column, "Nothing is missing.") for column in columns),
        *(_matches(column, KEY_FORM, "32 hex digits.") for column in _KEYS),
        _config("expect_column_values_to_be_in_set", "modality", "A known modality.", value_set=MODALITIES),
        *(_matches(column, PROMPT_FORM, f"The prompt holds {DISC_EMB}.") for column in _PROMPTS),
        *(_matches(column, RESPONSE_FORM, "Reasoning, then a summary, then one token.") for column in _RESPONSES),
        *(_matches(column, RESPONSE_END, f"The response ends with {GEN_EMB}.") for column in _RESPONSES),
        _exactly("media_missing", 0, "The files and frames that a row refers to are where it says."),
    ]


def _pair_table_suite() -> list[Config]:
    return [
        _intact(),
        _exactly("missing_values", 0, "Nothing is missing."),
        _exactly("malformed_keys", 0, "Pairs and sides are named by 32 hex digits."),
        _exactly("duplicate_pair_ids", 0, "A pair stands once."),
    ]


def _intact() -> Config:
    return _config(
        "expect_column_values_to_be_in_set", "intact", "The file is the one its entry names.", value_set=[True]
    )


def _exactly(column: str, value: float, why: str) -> Config:
    return _config("expect_column_values_to_be_between", column, why, min_value=value, max_value=value)


def _at_least(column: str, value: float, why: str) -> Config:
    return _config("expect_column_values_to_be_between", column, why, min_value=value)


def _at_most(column: str, value: float, why: str) -> Config:
    return _config("expect_column_values_to_be_between", column, why, max_value=value)


def _matches(column: str, regex: str, why: str) -> Config:
    return _config("expect_column_values_to_match_regex", column, why, regex=regex)


def _config(kind: str, column: str, why: str, **kwargs: Any) -> Config:
    return {"type": kind, "kwargs": {"column": column, **kwargs}, "notes": why}
