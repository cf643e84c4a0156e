"""Every verb explains itself with an example, and a user's mistake is answered with a sentence."""

import pytest
from typer.testing import CliRunner

from umer1_core.cli import EXAMPLES, app

runner = CliRunner()


@pytest.mark.parametrize("verb", sorted(EXAMPLES))
def test_help_of_every_verb_has_an_example(verb):
    result = runner.invoke(app, [verb, "--help"])
    assert result.exit_code == 0 and "Example: umer1" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "nowhere.yaml"], "There is no recipe at"),
        (["train", "nowhere"], "holds no finished data set"),
        (["evaluate", "nowhere"], "holds no finished data set"),
        (["report", "nowhere"], "holds no finished data set"),
    ],
)
def test_a_mistake_is_a_sentence_and_no_traceback(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1 and words in " ".join(result.output.split())
    assert "Traceback" not in result.output and not list(tmp_path.iterdir())


def test_status_of_nothing_shows_zeros_and_writes_nothing(tmp_path):
    result = runner.invoke(app, ["status", str(tmp_path / "none")])
    assert result.exit_code == 0 and "not running" in result.output and not list(tmp_path.iterdir())
