"""The Arrow schema of every table, one each. The version stands in the file's metadata and in the manifest.

A change that a reader must know of raises SCHEMA_VERSION.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

SCHEMA_VERSION = "3"

# What a column stands for in the shards of an earlier schema version, which lack it: readers fill it in.
ADDED: dict[str, dict[str, Any]] = {
    "annotations": {"sample": 0, "reason": ""},
    "verdicts": {"sample": 0},
    "pairs": {"row": ""},
    "rl": {"row": "", "block": 0},
}

# `offset`: where an image's bytes start in its container, so that they are read without its index; -1: by `member`.
# `notes`: what is done to a picture before a model sees it, and what was remarkable about it (umer1_core.media).
MEDIA = pa.struct(
    [
        ("kind", pa.string()),
        ("uri", pa.string()),
        ("member", pa.string()),
        ("offset", pa.int64()),
        ("frames", pa.list_(pa.string())),
        ("content_hash", pa.string()),
        ("size", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("notes", pa.list_(pa.string())),
    ]
)
SIDE = pa.struct([("text", pa.string()), ("media", pa.list_(MEDIA))])


def _schema(fields: list[tuple[str, pa.DataType]]) -> pa.Schema:
    return pa.schema(fields, metadata={"umer1.schema_version": SCHEMA_VERSION})


# `row` is where the pair stood when it was read, as `original-00000-of-00001.parquet#17`.
PAIRS = _schema(
    [
        ("pair_id", pa.string()),
        ("source", pa.string()),
        ("row", pa.string()),
        ("modality", pa.string()),
        ("query_key", pa.string()),
        ("target_key", pa.string()),
        ("query", SIDE),
        ("target", SIDE),
        ("negatives", pa.list_(SIDE)),
    ]
)

# Rows that never became a pair, each with its reason: nothing that was read is lost without a word.
REJECTIONS = _schema(
    [
        ("source", pa.string()),
        ("row", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)

# The distinct sides of all pairs: what is sent to the annotator, once each. `uses` counts the pairs' sides it serves.
SIDES = _schema(
    [
        ("side_key", pa.string()),
        ("source", pa.string()),
        ("modality", pa.string()),
        ("uses", pa.int32()),
        ("text", pa.string()),
        ("media", pa.list_(MEDIA)),
    ]
)

# `completion` is what the model wrote, tags and box tokens kept; the last one asked for where none had the form. A side
# has `sample` 0 and, where the recipe asks for several, as many more as it has uses. One that could not be annotated
# (a dead letter) has an empty completion, finish_reason "error", the reason in one word, and the last error.
ANNOTATIONS = _schema(
    [
        ("side_key", pa.string()),
        ("sample", pa.int32()),
        ("source", pa.string()),
        ("completion", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("attempts", pa.int32()),
        ("round", pa.int32()),
        ("seconds", pa.float32()),
        ("annotator", pa.string()),
        ("reason", pa.string()),
        ("error", pa.string()),
    ]
)

# Every request a side cost, in the order they were answered. `outcome`: ok; cut, loop or malformed (asked again where
# the ladder allows); transient, bad_input. Discarded completions stand here, accepted ones in `annotations`.
ATTEMPTS = _schema(
    [
        ("side_key", pa.string()),
        ("sample", pa.int32()),
        ("source", pa.string()),
        ("attempt", pa.int32()),
        ("outcome", pa.string()),
        ("seed", pa.int64()),
        ("temperature", pa.float32()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("seconds", pa.float32()),
        ("replica", pa.string()),
        ("completion", pa.string()),
        ("error", pa.string()),
    ]
)

# All reasons and scores of a side's sample, and the parts the parser found, so that publishing only joins. `flags` are
# reasons that the recipe does not drop for; `form` are the parser's, whatever the thresholds. `repeat_profile` and
# `repeat_periods`: tokens and period of the longest run with at least so many copies, for each of
# umer1_core.loops.COUNTS; `repeat_period`, `repeat_count` and `repeat_tokens`: the one with the recipe's count. Zeros
# where there is none. With the scores, other thresholds need neither a generation nor a tokenizer.
VERDICTS = _schema(
    [
        ("side_key", pa.string()),
        ("sample", pa.int32()),
        ("source", pa.string()),
        ("kept", pa.bool_()),
        ("reasons", pa.list_(pa.string())),
        ("flags", pa.list_(pa.string())),
        ("form", pa.list_(pa.string())),
        ("reasoning", pa.string()),
        ("summary", pa.string()),
        ("reasoning_tokens", pa.int32()),
        ("repeat_period", pa.int32()),
        ("repeat_count", pa.float32()),
        ("repeat_tokens", pa.int32()),
        ("repeat_profile", pa.list_(pa.int32())),
        ("repeat_periods", pa.list_(pa.int32())),
        ("burst_chars", pa.int32()),
        ("commentary_chars", pa.int32()),
        ("prompt_copy", pa.float32()),
        ("summary_chars", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("uses", pa.int32()),
    ]
)

# Trainer-ready: `query_prompt`/`target_prompt` are the user turns' text (media stand before it), `*_response` the
# assistant turns. `query_key`/`target_key` tell equal sides, which are no negatives of each other. `flags` are those of
# both verdicts, as `target:commentary`. `provenance`: where the row stood, and whose answers these are.
PROVENANCE = pa.struct(
    [
        ("row", pa.string()),
        ("query_annotator", pa.string()),
        ("query_sample", pa.int32()),
        ("query_round", pa.int32()),
        ("target_annotator", pa.string()),
        ("target_sample", pa.int32()),
        ("target_round", pa.int32()),
    ]
)
COLD_START = _schema(
    [
        ("pair_id", pa.string()),
        ("source", pa.string()),
        ("modality", pa.string()),
        ("query_key", pa.string()),
        ("target_key", pa.string()),
        ("query_prompt", pa.string()),
        ("query_media", pa.list_(MEDIA)),
        ("query_response", pa.string()),
        ("target_prompt", pa.string()),
        ("target_media", pa.list_(MEDIA)),
        ("target_response", pa.string()),
        ("negatives", pa.list_(SIDE)),
        ("flags", pa.list_(pa.string())),
        ("provenance", PROVENANCE),
    ]
)

# Pairs for reinforcement learning, in blocks of one source each. `origin`: `rejected` by the filters, or also in
# `cold_start`.
RL = _schema(
    [
        ("pair_id", pa.string()),
        ("source", pa.string()),
        ("modality", pa.string()),
        ("origin", pa.string()),
        ("block", pa.int32()),
        ("row", pa.string()),
        ("query_key", pa.string()),
        ("target_key", pa.string()),
        ("query_prompt", pa.string()),
        ("query_media", pa.list_(MEDIA)),
        ("target_prompt", pa.string()),
        ("target_media", pa.list_(MEDIA)),
        ("negatives", pa.list_(SIDE)),
    ]
)

# What a policy wrote in one step of reinforcement learning, a row for each rollout. Not one of TABLES: it is no part of
# the data set, it lies in the training's folder. `format` to `advantage` are the reward's components, their total and
# what the policy was trained with; `problem` is why a rollout has no good form, else empty; `hit`: the nearest group
# of the other side is a right one. `nearest`: those groups, named by their pairs.
ROLLOUTS = _schema(
    [
        ("step", pa.int32()),
        ("pair_id", pa.string()),
        ("source", pa.string()),
        ("modality", pa.string()),
        ("side", pa.string()),
        ("side_key", pa.string()),
        ("rollout", pa.int32()),
        ("text", pa.string()),
        ("problem", pa.string()),
        ("tokens", pa.int32()),
        ("ended", pa.bool_()),
        ("format", pa.float64()),
        ("ranking", pa.float64()),
        ("gap", pa.float64()),
        ("embedding_reward", pa.float64()),
        ("reward", pa.float64()),
        ("advantage", pa.float64()),
        ("hit", pa.bool_()),
        ("nearest", pa.list_(pa.struct([("pair_id", pa.string()), ("similarity", pa.float64())]))),
    ]
)

TABLES: dict[str, pa.Schema] = {
    "pairs": PAIRS,
    "rejections": REJECTIONS,
    "sides": SIDES,
    "annotations": ANNOTATIONS,
    "attempts": ATTEMPTS,
    "verdicts": VERDICTS,
    "cold_start": COLD_START,
    "rl": RL,
}
