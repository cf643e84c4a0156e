"""A training that collapses is stopped, by name; one that only has noise is not; a resumed one is judged alike."""

import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.grpo_guards import GrpoGuards
from tests.grpo.watch.records import steps
from umer1_core.errors import Fatal
from umer1_core.grpo.watch.guards import Guards, Stop

QUIET = GrpoGuards(window=5, warm_up=5)


def judge(records: list[dict], settings: GrpoGuards = QUIET, done: int = 0) -> Stop | None:
    """The first stop of a training that goes on after `done` steps."""
    guards = Guards(settings, records[:done])
    return next((stop for record in records[done:] if (stop := guards.check(record))), None)


def level(measure: str, before: float, after: float, turn: int = 20, count: int = 40) -> list[dict]:
    """Records that are alike but for one measure, which jumps at a step."""
    plain = {"loss": 0.0, "grad_norm": 1.0, "format": 0.9, "ranking": 0.7, "gap": 0.4, "kl": 0.01, "tokens": 40.0}
    plain |= {"entropy": 0.3, "reward": 1.2}
    return [plain | {"step": i, measure: before if i < turn else after} for i in range(1, count + 1)]


def jitter(
    records: list[dict], names: tuple[str, ...] = ("format", "ranking", "gap", "tokens", "entropy")
) -> list[dict]:
    """A hundredth up and down, so that no spread is zero."""
    return [r | {n: r[n] * (1.01 if r["step"] % 2 else 0.99) for n in names if n in r} for r in records]


@pytest.mark.parametrize(
    ("measure", "before", "after"),
    [
        ("format", 0.9, 0.7),
        ("ranking", 0.7, 0.45),
        ("gap", 0.4, 0.25),
        ("gap", 0.02, -0.2),
        ("kl", 0.01, 1.5),
        ("tokens", 40.0, 10.0),
        ("tokens", 40.0, 200.0),
        ("entropy", 0.3, 0.001),
        ("entropy", 0.3, 2.0),
        ("loss", 0.1, math.nan),
        ("loss", 0.1, None),
        ("grad_norm", 1.0, math.inf),
    ],
)
def test_each_collapse_stops_and_is_named(measure, before, after):
    stop = judge(jitter(level(measure, before, after)))
    assert stop is not None and stop.measure == measure and 20 <= stop.step <= 25
    assert measure in stop.message and f"Step {stop.step}" in stop.message
    assert "last good checkpoint" in stop.remedy and isinstance(stop.error(), Fatal)


@pytest.mark.parametrize(
    ("measure", "before", "after"),
    [
        ("format", 0.9, 0.82),
        ("ranking", 0.7, 0.6),
        ("gap", 0.4, 0.35),
        ("gap", 0.01, 0.0),
        ("kl", 0.01, 0.8),
        ("tokens", 40.0, 70.0),
        ("entropy", 0.3, 0.05),
        ("entropy", 0.001, 0.1),
        ("ranking", 0.4, 0.9),
        ("format", 0.5, 1.0),
        ("loss", 0.1, -9e9),
    ],
)
def test_what_is_no_collapse_does_not_stop(measure, before, after):
    assert judge(jitter(level(measure, before, after))) is None


def test_a_total_that_rises_hides_no_fall_of_the_embedding():
    records = steps(200, collapse_from=40, noise=0.3)
    first, last = records[:10], records[90:100]
    assert sum(r["format"] for r in last) > sum(r["format"] for r in first), "the format rises all the while"
    hidden = [r | {"reward": 2.0 + i / 100} for i, r in enumerate(records)]
    stop = judge(hidden, GrpoGuards())
    assert stop is not None and stop.measure in ("ranking", "gap") and 40 < stop.step < 100
    assert stop.value < stop.limit < stop.baseline


def test_the_noise_of_unlike_sources_stops_few_and_a_collapse_in_it_all():
    """The negative control: without standard errors most are stopped for noise."""
    noise = [steps(150, seed=seed, noise=2.0) for seed in range(40)]
    assert sum(judge(records, GrpoGuards()) is not None for records in noise) <= 3
    assert sum(judge(records, GrpoGuards(sigmas=0)) is not None for records in noise) >= 10
    collapsed = [steps(150, seed=seed, noise=2.0, collapse_from=40) for seed in range(20)]
    assert all(judge(records, GrpoGuards()) for records in collapsed)


def test_nothing_is_judged_before_the_warm_up_but_numbers():
    early = level("ranking", 0.7, 0.1, turn=6, count=12)
    assert judge(early, GrpoGuards(window=4, warm_up=12)) is None
    assert judge(early, GrpoGuards(window=4, warm_up=0)).step < 12, "so the warm-up is what held it"
    assert judge(level("loss", 0.1, math.nan, turn=2), GrpoGuards(window=4, warm_up=12)).step == 2


def test_several_bad_numbers_in_a_row_may_be_allowed():
    settings = GrpoGuards(bad_steps=3)
    records = level("loss", 0.1, 0.1)
    for place in (4, 5, 10, 11, 12):
        records[place]["loss"] = None
    assert judge(records, settings).step == 13, "two in a row were passed over"


def test_a_guard_that_is_off_stops_nothing():
    assert judge(level("loss", 0.1, math.nan), GrpoGuards(enabled=False)) is None


def test_measures_that_a_training_does_not_have_stop_nothing():
    bare = [{"step": i, "loss": 0.1, "rejected": 8, "rollouts": 0} for i in range(1, 60)]
    assert judge(bare) is None
    gaps = [r | ({"ranking": None, "tokens": None} if r["step"] % 3 else {}) for r in jitter(level("kl", 0.01, 0.01))]
    assert judge(gaps) is None


@given(st.integers(0, 60), st.integers(0, 5))
def test_a_resumed_training_is_judged_as_one_that_was_not_interrupted(done, seed):
    """Also from the step log, where what is no number is null."""
    records = steps(90, seed=seed, collapse_from=20)
    whole = judge(records)
    assert whole is not None, "nothing stops, so this test would prove nothing"
    logged = [orjson.loads(orjson.dumps(record)) for record in records]
    assert judge(logged, done=min(done, whole.step - 1)) == whole


def test_limits_that_exclude_everything_are_refused():
    with pytest.raises(ValidationError):
        GrpoGuards(shortest=1.5)
    with pytest.raises(ValidationError):
        GrpoGuards(longest=0.9)
