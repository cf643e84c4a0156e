"""How much a server is given follows from what it says of itself."""

from hypothesis import given
from hypothesis import strategies as st

from umer1_core.annotation.replica import Load, Pace, Replica, State, blames_row, first_pace, parse_load, steer
from umer1_core.errors import BadOutput, Busy, ServerFailed, ServerLost, Transient, Unreachable

CEILING = 512


def load(running: int, waiting: int = 0, kv: float = 0.3, preemptions: int = 0) -> Load:
    return Load(running, waiting, kv, preemptions)


def serving() -> Replica:
    replica = Replica("http://a/v1", CEILING, 8)
    replica.serve(False)
    return replica


def test_vllms_page_is_read_over_all_its_engines():
    page = b"""# HELP vllm:num_requests_running Number
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:num_preemptions_total{engine="0",model_name="m"} 2.0
vllm:num_preemptions_created{engine="0",model_name="m"} 1.7e+09
"""
    assert parse_load(page) == Load(7, 1, 0.5, 2)


def test_someone_elses_page_says_nothing():
    assert parse_load(b"python_info 1.0\n") is None


def test_a_start_ramps_up_to_the_ceiling_and_no_further():
    pace, limits = first_pace(CEILING), []
    while pace.ramping:
        limits.append(pace.limit)
        pace = steer(pace, pace.limit, load(pace.limit), load(0), CEILING)
    assert limits[0] < CEILING / 2 and pace.limit == CEILING
    assert steer(pace, CEILING, load(CEILING), load(CEILING), CEILING).limit == CEILING


def test_requests_that_wait_in_the_server_are_taken_back_but_for_a_few():
    pace = steer(Pace(200), 200, load(64, waiting=136), load(64), CEILING)
    assert 64 < pace.limit <= 64 + 16 and not pace.ramping


def test_as_many_may_wait_as_are_answered_before_the_next_look():
    fast = steer(Pace(200), 200, load(64, waiting=136), load(64), CEILING, rate=32.0)
    slow = steer(Pace(200), 200, load(64, waiting=136), load(64), CEILING, rate=1.0)
    assert fast.limit == 64 + 32 and slow.limit == 64 + 8


def test_a_preemption_lowers_the_pace_below_what_runs_and_a_full_cache_stops_its_growth():
    preempted = steer(Pace(100, False), 100, load(90, preemptions=5), load(90, preemptions=4), CEILING)
    full = steer(Pace(100, False), 100, load(100, kv=0.97), load(100), CEILING)
    assert preempted.limit == 81 and full.limit == 100
    assert steer(Pace(100, False), 100, load(100, kv=0.9), load(100), CEILING).limit > 100


def test_a_server_that_is_not_asked_for_all_it_may_have_is_left_as_it_is():
    assert steer(Pace(100, False), 10, load(10), load(10), CEILING) == Pace(100, False)


def test_requests_stuck_before_the_scheduler_do_not_raise_the_pace():
    """Images are decoded one after another in the API server; vLLM counts them neither as running nor as waiting."""
    assert steer(Pace(256), 256, load(20), load(20), CEILING) == Pace(256)


@given(
    st.integers(1, CEILING),
    st.booleans(),
    st.integers(0, 2_000),
    st.one_of(st.none(), st.builds(Load, st.integers(0, 999), st.integers(0, 999), st.floats(0, 1), st.integers(0, 9))),
    st.one_of(st.none(), st.builds(Load, st.integers(0, 999), st.integers(0, 999), st.floats(0, 1), st.integers(0, 9))),
)
def test_a_pace_is_never_zero_and_never_above_the_ceiling(limit, ramping, in_flight, now, before):
    assert 1 <= steer(Pace(limit, ramping), in_flight, now, before, CEILING).limit <= CEILING


def test_one_failure_is_chance_three_in_a_row_are_illness():
    replica = serving()
    for error in (ServerFailed("x"), ServerFailed("x")):
        replica.failed(error)
    assert replica.state is State.SERVING and replica.trusted
    replica.failed(ServerFailed("x"))
    assert replica.state is State.AWAY and replica.pace.limit == 0
    replica.failed(ServerFailed("x"))
    assert not replica.trusted


def test_an_answer_forgives_the_failures_before_it():
    replica = serving()
    for _ in range(5):
        replica.failed(ServerFailed("x"))
        replica.succeeded(1.0, 10)
    assert replica.state is State.SERVING


def test_a_server_where_nothing_listens_is_left_at_once():
    replica = serving()
    replica.failed(Unreachable("x"))
    assert replica.state is State.AWAY


def test_a_busy_server_gets_less_and_the_rest_it_asks_for():
    replica = serving()
    replica.in_flight["other"] = 40
    replica.failed(Busy("x", retry_after_s=5.0))
    assert replica.pace == Pace(28, False) and not replica.has_room("other")


def test_clips_have_a_lane_of_their_own():
    replica = serving()
    replica.in_flight["clip"] = 8
    assert not replica.has_room("clip") and replica.has_room("other")


def test_only_failures_that_a_row_may_cause_are_held_against_it():
    assert all(blames_row(error("x")) for error in (ServerFailed, ServerLost, BadOutput))
    assert not any(blames_row(error("x")) for error in (Transient, Busy, Unreachable))


def test_what_one_more_request_would_wait_follows_from_the_rate_and_not_from_an_early_burst(monkeypatch):
    """128 at once on 32 places: the last waits 20 s, but of 32 at a time each waits 5 s."""
    clock = [100.0]
    monkeypatch.setattr("umer1_core.annotation.replica.time.monotonic", lambda: clock[0])
    replica = serving()
    replica.in_flight["other"] = 128
    for wait in range(1, 101):
        clock[0] += 5 / 32
        replica.succeeded(wait * 5 / 32, 10)
        replica.in_flight["other"] -= 1
    replica.in_flight["other"], replica.pace = 10, Pace(32)
    assert replica.latency > 10 and abs(replica.expected - 5.0) < 0.01


def test_the_time_a_server_had_nothing_to_do_does_not_slow_it_down(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("umer1_core.annotation.replica.time.monotonic", lambda: clock[0])
    replica = serving()
    for pause in (0.0, 600.0):
        clock[0] += pause
        replica.in_flight["other"] = 10
        for _ in range(10):
            clock[0] += 0.5
            replica.succeeded(0.5, 10)
            replica.in_flight["other"] -= 1
    assert abs(replica.rate - 2.0) < 0.01
