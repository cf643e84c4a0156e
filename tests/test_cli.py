"""Every verb explains itself with an example, and a user's mistake is answered with a sentence."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.annotation.test_dead_letters import data_set
from tests.grpo.watch.made import trained
from tests.test_recipes import SMALL
from umer1_core.cli import EXAMPLES, app
from umer1_core.recipes import parse_recipe
from umer1_core.versions import Version, newest, open_build

runner = CliRunner()


@pytest.mark.parametrize("verb", sorted(EXAMPLES))
def test_help_of_every_verb_has_an_example(verb):
    result = runner.invoke(app, [verb, "--help"])
    assert result.exit_code == 0 and "Example: umer1" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "nowhere.yaml"], "There is no recipe at"),
        (["pilot", "nowhere.yaml"], "There is no recipe at"),
        (["redrive", "nowhere.yaml"], "There is no recipe at"),
        (["redrive", "nowhere", "--list"], "There is no data set at"),
        (["train", "nowhere"], "holds no finished data set"),
        (["evaluate", "nowhere"], "holds no finished data set"),
        (["grpo", "nowhere"], "holds no finished data set"),
        (["report", "nowhere"], "holds no finished data set"),
        (["rollouts", "nowhere"], "There are no rollouts in"),
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


def finished_version(folder: Path, reasons: list[str]) -> Version:
    """A version whose sides failed for these reasons."""
    recipe = parse_recipe(SMALL | {"output": str(folder / "out")})
    version = open_build(recipe, "a")
    data_set(Path(version.root), reasons)
    version.store.write_json("manifest.json", {"recipe": recipe.dump()})
    return version


@pytest.mark.parametrize("place", ["", "v1"])
def test_redrive_lists_the_dead_letters_of_a_data_set_and_starts_nothing(tmp_path, place):
    finished_version(tmp_path, ["timeout", "", "bad_input", "timeout"])
    result = runner.invoke(app, ["redrive", str(tmp_path / "out" / place), "--list"])
    assert result.exit_code == 0 and "timeout 2" in " ".join(result.output.split())
    assert result.output.index("timeout") < result.output.index("bad_input") and "the annotator said" in result.output
    only = runner.invoke(app, ["redrive", str(tmp_path / "out"), "--list", "--reason", "bad_input"])
    assert only.exit_code == 0 and "timeout" not in only.output
    unknown = runner.invoke(app, ["redrive", str(tmp_path / "out"), "--reason", "timeouts"])
    assert unknown.exit_code == 1 and "timeout (2), bad_input (1)" in " ".join(unknown.output.split())


def test_rollouts_shows_the_last_steps_group_and_answers_what_is_not_there(tmp_path):
    store, _, pairs = trained(tmp_path)
    shown = runner.invoke(app, ["rollouts", store.root])
    assert shown.exit_code == 0 and "step 40, 4 rollouts" in shown.output and "rollout 0  reward 1.50" in shown.output
    as_json = runner.invoke(app, ["rollouts", store.root, "--pair", pairs[1].pair_id, "--side", "target", "--json"])
    assert json.loads(as_json.output)["own"] == {"text": "a blue disc", "media": [], "known": True}
    missing = runner.invoke(app, ["rollouts", store.root, "--step", "39"])
    assert missing.exit_code == 1 and "The nearest are 1, 2, 40." in " ".join(missing.output.split())


def test_redrive_of_a_data_set_without_dead_letters_says_so_and_starts_nothing(tmp_path):
    version = finished_version(tmp_path, ["", ""])
    result = runner.invoke(app, ["redrive", version.root])
    assert result.exit_code == 0 and "there are no dead letters" in result.output
    assert newest(str(tmp_path / "out")) == version


def test_a_pilot_of_an_endpoint_with_a_key_in_its_address_is_refused_without_repeating_it(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(SMALL | {"output": str(tmp_path / "out")}))
    result = runner.invoke(app, ["pilot", str(file), "--endpoint", "http://me:hidden@host/v1"])
    assert result.exit_code == 1 and "endpoints" in result.output and "hidden" not in result.output


def test_grpo_wants_a_validated_data_set_and_a_trained_student_and_says_how_to_get_them(tmp_path):
    version = finished_version(tmp_path, [""])
    manifest = version.store.read_json("manifest.json") | {"data_hash": "h"}
    version.store.write_json("manifest.json", manifest)
    refused = runner.invoke(app, ["grpo", version.root])
    assert refused.exit_code == 1 and "has not been validated" in " ".join(refused.output.split())
    version.store.write_json("_VALIDATED.json", {"data_hash": "h"})
    refused = runner.invoke(app, ["grpo", version.root])
    assert refused.exit_code == 1 and "Train one first: umer1 train" in " ".join(refused.output.split())


def test_the_launch_script_starts_the_stage_that_is_named(tmp_path):
    (tmp_path / "umer1").write_text('#!/bin/sh\necho umer1 "$@"\n')
    (tmp_path / "umer1").chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    script = Path(__file__).parents[1] / "deploy" / "train.sh"
    for stage, verb in (({}, "train"), ({"STAGE": "grpo"}, "grpo")):
        done = subprocess.run([script, "DATA"], env=environment | stage, capture_output=True, text=True, check=True)
        assert done.stdout == f"umer1 {verb} DATA\n"
