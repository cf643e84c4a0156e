"""What the tokens bought, by source and outcome: useful, wasted and saved.

Guarantees: every answered request of this version counts under one outcome, counted over the shards. `useful` and
`rejected` are the completions that stand in the data set, so also those that an earlier version paid for, which `saved`
counts again as `taken_over`. A data set made before attempts were recorded has no others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import duckdb

from umer1_core.query import connect, rows, scan
from umer1_core.store import Store

Tally = dict[str, int]

RETRIED = ("cut", "loop", "malformed")
WASTED = ("rejected", *RETRIED, "failed")
OUTCOMES = ("useful", *WASTED)
SAVED = ("equal_sides", "taken_over")
_TALLY = ("requests", "prompt_tokens", "completion_tokens")
_SIDES_COUNTED = ("sides", "uses", "annotated", "failed")
_COLUMNS = {
    "sides": ["side_key", "source", "uses"],
    "annotations": [
        *("side_key", "sample", "source", "finish_reason", "prompt_tokens", "completion_tokens", "attempts"),
    ],
    "attempts": ["side_key", "sample", "source", "attempt", "outcome", "prompt_tokens", "completion_tokens"],
    "verdicts": ["side_key", "sample", "kept"],
}
_SUMS = """count(*) AS requests, sum(prompt_tokens)::BIGINT AS prompt_tokens,
sum(completion_tokens)::BIGINT AS completion_tokens"""
# Equal sides saved as many generations as a side has uses beyond its samples, each as long as its samples are.
_SIDES = """
SELECT source, count(*) AS sides, sum(uses)::BIGINT AS uses, count(*) FILTER (answered > 0) AS annotated,
       count(*) FILTER (answered = 0) AS failed, sum(spared)::BIGINT AS requests,
       coalesce(round(sum(spared * mean_prompt)), 0)::BIGINT AS prompt_tokens,
       coalesce(round(sum(spared * mean_completion)), 0)::BIGINT AS completion_tokens
FROM (SELECT source, uses, answered, greatest(uses - coalesce(asked, 1), 0) AS spared, mean_prompt, mean_completion
      FROM sides LEFT JOIN (
          SELECT side_key, count(*) AS asked, count(*) FILTER (finish_reason <> 'error') AS answered,
                 avg(prompt_tokens) FILTER (finish_reason <> 'error') AS mean_prompt,
                 avg(completion_tokens) FILTER (finish_reason <> 'error') AS mean_completion
          FROM annotations GROUP BY side_key) samples USING (side_key)) counted
GROUP BY source
"""
_ACCEPTED = f"""
SELECT annotations.source, CASE WHEN kept THEN 'useful' ELSE 'rejected' END AS outcome, {_SUMS}
FROM annotations LEFT JOIN verdicts USING (side_key, sample) WHERE finish_reason <> 'error' GROUP BY ALL
"""
# The attempt that an annotation names as its last is the completion that stands there; the others bought nothing.
_DISCARDED = f"""
SELECT source, CASE WHEN outcome IN ('transient', 'bad_input') THEN 'failed' ELSE outcome END AS outcome, {_SUMS}
FROM attempts ANTI JOIN (
    SELECT side_key, sample, attempts AS attempt FROM annotations WHERE finish_reason <> 'error'
) accepted USING (side_key, sample, attempt)
WHERE outcome <> 'ok' GROUP BY ALL
"""
_TAKEN_OVER = f"""
SELECT source, {_SUMS} FROM annotations ANTI JOIN attempts USING (side_key, sample)
WHERE finish_reason <> 'error' GROUP BY source
"""


def ledger(store: Store) -> dict[str, Any]:
    """The account of the whole data set, and the same `by_source`."""
    with connect() as connection:
        for table, columns in _COLUMNS.items():
            scan(connection, store, table, columns)
        sides = {row.pop("source"): row for row in rows(connection, _SIDES)}
        spent = _spent(connection)
        recorded = bool(store.entries("attempts"))
        taken_over = {row["source"]: _tally(row) for row in rows(connection, _TAKEN_OVER)} if recorded else {}
    by_source = {
        source: _account(
            [sides.get(source, {})],
            spent[source],
            {"equal_sides": _tally(sides.get(source, {})), "taken_over": taken_over.get(source, _tally({}))},
        )
        for source in sorted(sides.keys() | spent.keys())
    }
    accounts = list(by_source.values())
    total = _account(
        accounts,
        {outcome: _added(account["outcomes"][outcome] for account in accounts) for outcome in OUTCOMES},
        {way: _added(account["saved"][way] for account in accounts) for way in SAVED},
    )
    return total | {"by_source": by_source}


def _spent(connection: duckdb.DuckDBPyConnection) -> defaultdict[str, dict[str, Tally]]:
    spent: defaultdict[str, dict[str, Tally]] = defaultdict(dict)
    for row in [*rows(connection, _ACCEPTED), *rows(connection, _DISCARDED)]:
        spent[row["source"]][row["outcome"]] = _tally(row)
    return spent


def _account(counted: Iterable[Tally], spent: dict[str, Tally], saved: dict[str, Tally]) -> dict[str, Any]:
    counted = list(counted)
    outcomes = {outcome: spent.get(outcome, _tally({})) for outcome in OUTCOMES}
    whole, wasted = _added(outcomes.values()), _added(outcomes[outcome] for outcome in WASTED)
    return {
        **{name: sum(int(part.get(name, 0)) for part in counted) for name in _SIDES_COUNTED},
        "prompt_tokens": whole["prompt_tokens"],
        "completion_tokens": whole["completion_tokens"],
        "useful_tokens": outcomes["useful"]["completion_tokens"],
        "wasted_tokens": wasted["completion_tokens"],
        "saved_generations": saved["equal_sides"]["requests"],
        "saved_tokens": saved["equal_sides"]["completion_tokens"],
        "outcomes": outcomes,
        "saved": saved,
    }


def _tally(row: dict[str, Any]) -> Tally:
    return {name: int(row.get(name) or 0) for name in _TALLY}


def _added(tallies: Iterable[Tally]) -> Tally:
    parts = list(tallies)
    return {name: sum(part[name] for part in parts) for name in _TALLY}
