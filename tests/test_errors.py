"""What a person reads of a failure."""

import pytest

from umer1_core.errors import Umer1Error


@pytest.mark.parametrize(
    ("message", "remedy", "read"),
    [
        ("It is gone.", "Look for it.", "It is gone. Look for it."),
        ("It is gone", "Look for it.", "It is gone. Look for it."),
        ("Is it gone?", "Look for it.", "Is it gone? Look for it."),
        ("It said:\nno space", "Make some.", "It said:\nno space\nMake some."),
        ("It is gone", "", "It is gone"),
        ("", "Look for it.", "Look for it."),
    ],
)
def test_message_and_remedy_read_as_sentences(message, remedy, read):
    assert str(Umer1Error(message, remedy)) == read
