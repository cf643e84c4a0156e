"""Rollouts by a server: what is asked, waited for and believed, with a stand-in for vLLM."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from tests.grpo.stand_in_vllm import StandIn, serve
from tests.grpo.vllm_policy import prompts_of, sampling
from tests.student import small_student
from umer1_core.errors import BadInput, Fatal, StorageError, Transient
from umer1_core.grpo.rollouts.face import Prompt, SaveWeights
from umer1_core.grpo.rollouts.server import FromServer
from umer1_core.media import data_url


@pytest.fixture
def prompt(tmp_path: Path) -> Prompt:
    return prompts_of(small_student(), tmp_path)[0]


@pytest.fixture
def stand_in(tmp_path: Path, prompt: Prompt) -> Iterator[StandIn]:
    server = StandIn(str(tmp_path / "weights"), prompt.row.prompt)
    with serve(server) as server.url:
        yield server


def from_server(url: str, tmp_path: Path, patience_s: float = 2.0, **settings: object) -> FromServer:
    student = small_student()
    given = {"patience_s": patience_s} | settings
    return FromServer(url, sampling(student), student.ids, tmp_path / "weights", **given)  # type: ignore[arg-type]


def writes(**files: str) -> SaveWeights:
    """Saves files by their names, with __ for a dot."""
    return lambda folder: [(folder / n.replace("__", ".")).write_text(text) for n, text in files.items()] and None


def test_a_group_is_asked_for_at_once_and_comes_in_order(stand_in, prompt, tmp_path):
    rollouts = from_server(stand_in.url + "/v1", tmp_path)
    groups = rollouts.sample([prompt], 3, seed=1)
    assert [c.ids for c in groups[0]] == [(7, 2)] * 3 and groups[0][0].logprobs == (-0.5, -0.5)
    (body,) = stand_in.bodies
    ids = small_student().ids
    assert body["n"] == 3 and body["logit_bias"] == {str(ids.image): -100.0, str(ids.video): -100.0}
    assert body["stop_token_ids"] == [ids.end_of_turn] and body["return_token_ids"] and not body["skip_special_tokens"]


def test_seeds_follow_the_blocks_seed_and_the_side(stand_in, prompt, tmp_path):
    rollouts, other = from_server(stand_in.url, tmp_path), replace(prompt, key="another")
    for prompts, seed in [([prompt], 1), ([prompt], 1), ([prompt], 2), ([other], 1)]:
        rollouts.sample(prompts, 1, seed)
    seeds = [body["seed"] for body in stand_in.bodies]
    assert seeds[0] == seeds[1] and len(set(seeds)) == 3
    rollouts.sample([prompt, other, prompt], 1, 1)
    both = {body["seed"] for body in stand_in.bodies[4:]}
    assert len(both) == 3 and {seeds[0], seeds[3]} < both  # a side that comes twice has groups of its own


def test_weights_are_written_and_read_again_once_a_step(stand_in, tmp_path):
    rollouts, folder = from_server(stand_in.url, tmp_path), tmp_path / "weights"
    rollouts.load(5, writes(model__safetensors="new", config__json="{}"))
    assert (folder / "model.safetensors").read_text() == "new" and (folder / "config.json").exists()
    assert stand_in.asked == ["/server_info", "/collective_rpc", "/reset_encoder_cache", "/reset_prefix_cache"]
    rollouts.load(5, writes(model__safetensors="of the same step"))
    assert (folder / "model.safetensors").read_text() == "new" and len(stand_in.asked) == 4
    rollouts.load(6, writes(model__safetensors="newer"))
    assert (folder / "model.safetensors").read_text() == "newer" and len(stand_in.asked) == 7
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_no_earlier_checkpoints_weights_stay_beside_the_new_ones(stand_in, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("model-00001-of-00001.safetensors", "model.safetensors.index.json", "tokenizer.json"):
        (folder / name).write_text("old")
    from_server(stand_in.url, tmp_path).load(0, writes(model__safetensors="new"))
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "tokenizer.json"}


def test_ranks_gather_together_and_one_writes_and_reloads(stand_in, tmp_path):
    saved: list[Path] = []
    barriers = count()

    def save(folder: Path) -> None:
        saved.append(folder)
        (folder / "model.safetensors").write_text("of another rank")

    rollouts = from_server(stand_in.url, tmp_path, main=False, barrier=lambda: next(barriers))
    rollouts.load(1, save)
    assert len(saved) == 1 and next(barriers) == 1 and not saved[0].exists()
    assert not (tmp_path / "weights").exists() and stand_in.asked == []


def test_a_server_on_another_folder_is_refused_before_anything_is_written(stand_in, tmp_path):
    stand_in.served["model"] = str(tmp_path / "elsewhere")
    with pytest.raises(Fatal, match="elsewhere"):
        from_server(stand_in.url, tmp_path).load(0, writes(model__safetensors="new"))
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize("missing", ["--logprobs-mode", "--worker-extension-cls", "--media-io-kwargs"])
def test_a_server_that_was_not_started_for_rollouts_is_refused(stand_in, tmp_path, missing):
    if missing == "--logprobs-mode":
        stand_in.served["logprobs_mode"] = "raw_logprobs"
    elif missing == "--worker-extension-cls":
        stand_in.parallel["worker_extension_cls"] = ""
    else:
        stand_in.served["multimodal_config"]["media_io_kwargs"] = {}
    with pytest.raises(Fatal, match=missing):
        from_server(stand_in.url, tmp_path).load(0, writes(model__safetensors="new"))


def test_a_server_without_dev_mode_is_refused_with_the_remedy(stand_in, tmp_path):
    stand_in.first["/server_info"] = [(404, {"detail": "Not Found"})]
    with pytest.raises(Fatal, match="VLLM_SERVER_DEV_MODE=1"):
        from_server(stand_in.url, tmp_path).load(0, writes(model__safetensors="new"))


def test_weights_that_cannot_be_written_are_a_storage_error(stand_in, tmp_path):
    def save(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        from_server(stand_in.url, tmp_path).load(0, save)
    assert "/collective_rpc" not in stand_in.asked


@pytest.mark.parametrize("statuses", [[503], [500], [0], [429, 0, 502]])
def test_troubles_that_pass_are_waited_for(stand_in, prompt, tmp_path, statuses):
    stand_in.first["/v1/chat/completions"] = [(status, None) for status in statuses]
    assert len(from_server(stand_in.url, tmp_path).sample([prompt] * 3, 2, seed=0)) == 3


def test_a_prefix_cache_in_use_is_asked_again(stand_in, tmp_path):
    stand_in.first["/reset_prefix_cache"] = [(200, {"success": False})]
    from_server(stand_in.url, tmp_path).load(0, writes(model__safetensors="new"))
    assert stand_in.asked.count("/reset_prefix_cache") == 2


def test_a_server_that_is_gone_is_transient_within_its_patience(prompt, tmp_path):
    started = time.monotonic()
    with pytest.raises(Transient, match="Nothing answers"):
        from_server("http://127.0.0.1:9", tmp_path, patience_s=0.4).sample([prompt] * 4, 2, seed=0)
    assert time.monotonic() - started < 3


def test_a_refused_side_is_named(stand_in, prompt, tmp_path):
    stand_in.first["/v1/chat/completions"] = [(400, {"error": "too long"})]
    with pytest.raises(BadInput, match=prompt.key) as caught:
        from_server(stand_in.url, tmp_path).sample([prompt], 2, seed=0)
    assert caught.value.reason == "request_refused"


def test_a_prompt_read_otherwise_is_fatal_with_the_side_and_both_lengths(stand_in, prompt, tmp_path):
    stand_in.prompt = (*prompt.row.prompt[:-1], 9, 9)
    length = len(prompt.row.prompt)
    with pytest.raises(
        Fatal, match=f"{prompt.key} as {length + 1} tokens, the trainer has {length}.*token {length - 1}"
    ):
        from_server(stand_in.url, tmp_path).sample([prompt], 2, seed=0)


def test_a_banned_id_is_never_let_through(stand_in, prompt, tmp_path):
    stand_in.written = (7, small_student().ids.image)
    with pytest.raises(Fatal, match=prompt.key):
        from_server(stand_in.url, tmp_path).sample([prompt], 2, seed=0)


def test_a_completion_that_the_server_broke_off_is_asked_for_again(stand_in, prompt, tmp_path):
    stand_in.finish_reason = "abort"
    with pytest.raises(Transient, match="abort"):
        from_server(stand_in.url, tmp_path, patience_s=0.3).sample([prompt], 2, seed=0)
    assert len(stand_in.bodies) > 1


def test_a_rendered_picture_travels_without_loss_and_others_as_they_are(stand_in, tmp_path):
    _, plain, rendered, clip, _ = prompts_of(small_student(), tmp_path)
    rollouts = from_server(stand_in.url, tmp_path)
    for prompt in (plain, rendered, clip):
        stand_in.prompt = prompt.row.prompt
        rollouts.sample([prompt], 1, seed=0)
    parts = [body["messages"][0]["content"][0] for body in stand_in.bodies]
    urls = [part[part["type"]]["url"] for part in parts]
    assert urls[0] == data_url(plain.media[0]).decode() and urls[2] == data_url(clip.media[0]).decode()
    assert urls[1].startswith("data:image/png;base64,") and data_url(rendered.media[0]).startswith(b"data:image/jpeg")
    assert [part["type"] for part in parts] == ["image_url", "image_url", "video_url"]
