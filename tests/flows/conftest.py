"""A Prefect server for the flows' tests, once for all of them, and the train deployment for them to start."""

import os

import pytest
from prefect.testing.utilities import prefect_test_harness

from flows.train import train


@pytest.fixture(scope="package")
def prefect_server():
    os.environ["DO_NOT_TRACK"] = "1"
    with prefect_test_harness(server_startup_timeout=120):
        train.to_deployment("default").apply()
        yield
