"""A Prefect server for a file of flows' tests, and the train deployment for them to start.

One for all files would stand idle during the main job, which has its own, and then take two minutes to stop.
"""

import os

import pytest
from prefect.testing.utilities import prefect_test_harness

from flows.train import train


@pytest.fixture(scope="module")
def prefect_server():
    os.environ["DO_NOT_TRACK"] = "1"
    with prefect_test_harness(server_startup_timeout=120):
        train.to_deployment("default").apply()
        yield
