"""The tiny student and its encoder, for all of this folder."""

import pytest

from tests.student import small_student
from umer1_core.backbone.collate import Encoder


@pytest.fixture(scope="module")
def backbone():
    return small_student()


@pytest.fixture(scope="module")
def encoder(backbone):
    return Encoder(backbone, 1024)
