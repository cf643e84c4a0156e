"""Which failures of a task are tried again."""

import pytest
from prefect import flow, task

from tasks.common import TASK_OPTIONS
from umer1_core.errors import Fatal

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def times_called(error: Exception) -> int:
    calls: list[int] = []

    @task(**(TASK_OPTIONS | {"retry_delay_seconds": 0}))
    def fail() -> None:
        calls.append(1)
        raise error

    @flow
    def one() -> None:
        fail()

    with pytest.raises(type(error)):
        one()
    return len(calls)


def test_a_failure_that_may_pass_is_tried_again():
    assert times_called(OSError("the network file system hiccuped")) == 3


def test_a_failure_that_needs_a_person_is_not():
    assert times_called(Fatal("a wrong key")) == 1
