"""Pairs as the samples of their sides judge them, for everything that publishing writes and counts.

Guarantees: a pair is kept if both its sides have a kept sample, and counts once however many samples there are; the
uses of a side with several kept samples take them in turn, in the order of a hash of pair and role, so that no sample
is used twice before all are used once. With one sample a side nothing here costs more than a join.
"""

from __future__ import annotations

import duckdb

# A pair's side has a sample to take; every other side is dropped, or has no verdict at all.
_JUDGED = """
CREATE TEMP TABLE judged AS
SELECT pair_id, source, modality,
       coalesce(query_key IN (SELECT side_key FROM verdicts WHERE kept)
                AND target_key IN (SELECT side_key FROM verdicts WHERE kept), false) AS kept
FROM pairs
"""
# Only sides with a kept sample other than 0 stand here: every other kept side's is sample 0.
_SEVERAL = """
CREATE TEMP TABLE several AS
SELECT side_key, sample, row_number() OVER (PARTITION BY side_key ORDER BY sample) - 1 AS place,
       count(*) OVER (PARTITION BY side_key) AS samples
FROM verdicts WHERE kept AND side_key IN (SELECT side_key FROM verdicts WHERE kept AND sample > 0)
"""
_CHOICES = """
CREATE TEMP TABLE choices AS
SELECT pair_id, role, sample
FROM (SELECT *, row_number() OVER (PARTITION BY side_key ORDER BY md5(pair_id || role)) - 1 AS turn
      FROM (SELECT pair_id, 'query' AS role, query_key AS side_key FROM pairs
            UNION ALL SELECT pair_id, 'target', target_key FROM pairs) uses
      SEMI JOIN several USING (side_key) SEMI JOIN (SELECT pair_id FROM judged WHERE kept) USING (pair_id)) turns
JOIN several USING (side_key)
WHERE place = turn % samples
"""
# A dropped pair has the reasons of all samples of its dropped sides.
_REFUSALS = """
CREATE TEMP TABLE refusals AS
SELECT DISTINCT pair_id, source, coalesce(reason, 'no_verdict') AS reason
FROM (SELECT pair_id, source, unnest([query_key, target_key]) AS side_key
      FROM pairs SEMI JOIN (SELECT pair_id FROM judged WHERE NOT kept) USING (pair_id)) sides_of_dropped
ANTI JOIN (SELECT side_key FROM verdicts WHERE kept) USING (side_key)
LEFT JOIN (SELECT side_key, unnest(reasons) AS reason FROM verdicts WHERE NOT kept) against USING (side_key)
"""


def judge_pairs(connection: duckdb.DuckDBPyConnection) -> None:
    """Make `judged` (pair_id, source, modality, kept) of `pairs` (without sides) and `verdicts` (side_key, kept)."""
    connection.execute(_JUDGED)


def choose_samples(connection: duckdb.DuckDBPyConnection) -> None:
    """Make `choices` (pair_id, role, sample) of `judged`: what a kept pair takes; where nothing stands, sample 0."""
    connection.execute(_SEVERAL)
    connection.execute(_CHOICES)


def collect_refusals(connection: duckdb.DuckDBPyConnection) -> None:
    """Make `refusals` (pair_id, source, reason) of `judged`: every reason against a dropped pair, once."""
    connection.execute(_REFUSALS)
