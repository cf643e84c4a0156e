"""kill -9 at random moments: no side is lost or doubled, and nothing that was durable is paid for again."""

from tests.annotation.kills import kill_run


def test_a_run_killed_at_random_moments_ends_complete_and_pays_for_nothing_durable_twice():
    cost = kill_run(rows=2_000, kills=6, seed=3, shards=4)
    assert cost.kills == 6
    assert (cost.lost, cost.duplicated, cost.paid_twice) == (0, 0, 0)
    # Otherwise the kills came before anything was durable, or when all of it was, and would prove nothing.
    assert 0 < max(cost.durable_at_kills) < 2_000 and len(set(cost.durable_at_kills)) > 2 and cost.repeated > 0
