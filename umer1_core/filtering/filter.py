"""A shard of annotations becomes a shard of verdicts: all reasons and all scores of every completion.

Guarantees: one verdict per sample of a side, sides in the shard's order; a sample that failed is `not_annotated`, and
so is sample 0 of a side without any. Verdicts whose scores are the same as those wanted, here or in the parent version,
are judged again without reading a text; where nothing changed, the shard is not written again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from schemas.recipe import Filters
from schemas.tables import VERDICTS
from umer1_core.errors import StorageError
from umer1_core.filtering.counts import summarize
from umer1_core.filtering.scores import FAILED, SCORES, Completions, find_loops, score
from umer1_core.filtering.tokens import TokenizerSource, encode, open_tokenizer
from umer1_core.filtering.verdicts import JUDGED, judge, stored_runs
from umer1_core.store import ShardEntry, Store

_BATCH = 1_024


def filter_shard(
    store: Store,
    shard: str,
    filters: Filters,
    tokenizer: TokenizerSource,
    fingerprint: str = "",
    scores: str = "",
    parent: Store | None = None,
) -> ShardEntry:
    """Judge the sides of a shard and write their verdicts; one finished under `fingerprint` is left as it is.

    tokenizer: or what opens it, called only where completions have to be read. scores: what `scores_fingerprint` says;
    empty: always read them. parent: where verdicts with these scores may be, too; by default the version before.
    """
    if done := store.entry("verdicts", shard, fingerprint):
        return done
    for place in (store, parent or store.parent) if scores else ():
        entry = place and _judge_again(store, place, shard, filters, fingerprint, scores)
        if entry:
            return entry
    verdicts = score_shard(store, shard, filters, open_tokenizer(tokenizer))
    return store.write_shard("verdicts", shard, verdicts, fingerprint, scores=scores, **summarize(verdicts))


def score_shard(store: Store, shard: str, filters: Filters, tokenizer: Tokenizer) -> pa.Table:
    """The verdicts of a shard, from its completions."""
    rows = _completions(store, shard)
    parts = [VERDICTS.empty_table()]
    for first in range(0, rows.num_rows, _BATCH):
        parts.append(judge_completions(rows.slice(first, _BATCH), filters, tokenizer))
    return pa.concat_tables(parts).combine_chunks()


def judge_completions(rows: pa.Table, filters: Filters, tokenizer: Tokenizer) -> pa.Table:
    """Rows of the table `verdicts`. rows: as `_completions` has them."""
    texts = rows["completion"].to_pylist()
    completions = Completions(texts, rows["finish_reason"].to_pylist(), rows["text"].to_pylist())
    encoded = encode(texts, tokenizer)
    loops = find_loops(encoded, filters.repeat_min_count)
    own = loops.counts.index(filters.repeat_min_count)
    scores = score(completions, encoded.reasoning, loops)
    return _assemble(rows, scores, judge(scores, filters, loops.tokens[:, own], loops.periods[:, own]))


def _judge_again(
    store: Store, place: Store, shard: str, filters: Filters, fingerprint: str, scores: str
) -> ShardEntry | None:
    """The shard from the scores that lie at `place`; None where they are others, or do not tell."""
    entry = place.entry("verdicts", shard)
    if entry is None or entry.metrics.get("scores") != scores:
        return None
    try:
        before = place.read_shard("verdicts", shard)
    except StorageError:
        return None  # damaged: made anew, from the completions
    runs = stored_runs(before, filters.repeat_min_count)
    if runs is None:
        return None
    verdicts = _assemble(before, before, judge(before, filters, *runs))
    entry = replace(entry, fingerprint=fingerprint, metrics={"scores": scores, **summarize(verdicts)})
    if not verdicts.select(JUDGED).equals(before.select(JUDGED)):
        return store.write_shard("verdicts", shard, verdicts, fingerprint, **entry.metrics)
    if place is not store:
        return store.adopt(place, entry)
    store.write_entry(entry)
    return entry


def _completions(store: Store, shard: str) -> pa.Table:
    """Every sample of every side with its completion, in the sides' order; one row of a side without any."""
    sides = store.read_shard("sides", shard, ["side_key", "source", "uses", "text"])
    columns = ["side_key", "sample", "completion", "finish_reason", "completion_tokens"]
    answers = store.read_shard("annotations", shard, columns)
    places = pc.index_in(answers["side_key"], value_set=sides["side_key"].combine_chunks())
    answers, places = answers.filter(pc.is_valid(places)), places.drop_null().to_numpy()
    silent = np.setdiff1d(np.arange(sides.num_rows), places)
    side = np.concatenate([places, silent]).astype(np.int64)
    answer = np.concatenate([np.arange(len(places)), np.full(len(silent), -1)])
    sample = np.concatenate([answers["sample"].to_numpy(), np.zeros(len(silent), np.int32)])
    order = np.lexsort((sample, side))
    rows = answers.drop_columns("side_key").take(pa.array(answer[order], mask=answer[order] < 0))
    ended = pc.fill_null(rows["finish_reason"], FAILED)
    said = pc.if_else(pc.equal(ended, FAILED), "", pc.fill_null(rows["completion"], ""))
    asked = sides.take(pa.array(side[order]))
    return pa.table(
        {
            **{name: asked[name] for name in ("side_key", "source", "uses", "text")},
            **{name: pc.fill_null(rows[name], 0) for name in ("sample", "completion_tokens")},
            "finish_reason": ended,
            "completion": said,
        }
    )


def _assemble(rows: pa.Table, scores: pa.Table, judged: pa.Table) -> pa.Table:
    """Rows of the table `verdicts`, each column from where it is."""
    places = dict.fromkeys(SCORES, scores) | dict.fromkeys(JUDGED, judged)
    return pa.table({name: places.get(name, rows)[name] for name in VERDICTS.names}).cast(VERDICTS)
