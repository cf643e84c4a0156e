"""The preflight against the real vLLM and the miniature's teacher: what it accepts works, what it refuses would not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.recipe import Annotation
from umer1_core.annotation.annotator import chat_body
from umer1_core.annotation.client import ChatClient, Reply
from umer1_core.annotation.embedded import embedded_annotator
from umer1_core.annotation.preflight import Capabilities, examine
from umer1_core.errors import Fatal
from umer1_core.media import describe
from umer1_core.miniature.accuracy import Case, draw_cases
from umer1_core.miniature.world import Clip
from umer1_core.pairs import Media, Side
from umer1_core.recipes import miniature_recipe
from umer1_core.template import THINK_CLOSE

pytestmark = pytest.mark.slow


def settings(*arguments: str, **changes: Any) -> Annotation:
    annotation = miniature_recipe().annotation
    embedded = annotation.embedded.model_copy(update={"backend": "vllm", "arguments": list(arguments)})
    return Annotation.model_validate(annotation.model_dump() | {"embedded": embedded.model_dump()} | changes)


def a_side(case: Case, folder: Path) -> Side:
    """A case's side as a source would hold it: an image file, or a folder of frames."""
    folder.mkdir(parents=True)
    for number, data in enumerate(case.media):
        (folder / f"{number}.jpg").write_bytes(data)
    names = tuple(f"{number}.jpg" for number in range(len(case.media)))
    if not names:
        return Side(case.side.text)
    clip = isinstance(case.side.picture, Clip)
    media = Media("video", str(folder), frames=names) if clip else Media("image", str(folder / names[0]))
    return Side(case.side.text, (describe(media),))


@pytest.fixture(scope="module")
def media_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def sides(media_root: Path) -> list[Side]:
    """A text, an image and a clip of the world."""
    cases = draw_cases("heldout", 60, seed=9)
    chosen = [
        next(c for c in cases if not c.media),
        next(c for c in cases if len(c.media) == 1),
        next(c for c in cases if isinstance(c.side.picture, Clip)),
    ]
    return [a_side(case, media_root / str(number)) for number, case in enumerate(chosen)]


@pytest.fixture(scope="module")
def server(media_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The embedded server as a recipe with every switch on starts it."""
    annotation = settings(stop_loops={}, thinking_budget=64)
    log = tmp_path_factory.mktemp("log") / "vllm.log"
    with embedded_annotator(annotation, log, media_root=str(media_root)) as endpoints:
        yield endpoints[0]


def examined(annotation: Annotation, endpoint: str, sides: list[Side]) -> Capabilities:
    async def run() -> Capabilities:
        async with ChatClient(annotation) as client:
            return await examine(client, endpoint, annotation, sides)

    return asyncio.run(run())


def answered(annotation: Annotation, endpoint: str, body: bytes) -> Reply:
    async def run() -> Reply:
        async with ChatClient(annotation) as client:
            return await client.complete(endpoint, body)

    return asyncio.run(run())


def test_the_embedded_server_passes_every_probe_and_reads_files(server, sides):
    annotation = settings(stop_loops={}, thinking_budget=64, media="reference")
    assert examined(annotation, server, sides) == Capabilities(by_reference=True, max_model_len=4096)


def test_files_outside_the_servers_folder_go_inline_or_are_refused(server, sides, tmp_path):
    outside = a_side(next(c for c in draw_cases("heldout", 60, seed=9) if len(c.media) == 1), tmp_path / "x")
    assert not examined(settings(media="auto"), server, [*sides, outside]).by_reference
    with pytest.raises(Fatal, match="--allowed-local-media-path"):
        examined(settings(media="reference"), server, [*sides, outside])


def test_an_image_by_reference_gives_the_completion_of_its_bytes(server, sides):
    replies = [
        answered(settings(), server, chat_body(sides[1], settings(), seed=1, temperature=0, by_reference=by_reference))
        for by_reference in (False, True)
    ]
    assert replies[0] == replies[1] and replies[0].completion_tokens > 10


def test_the_loop_stop_ends_what_would_run_to_the_limit(server, sides):
    forced = {"allowed_token_ids": [64]}
    body = chat_body(sides[0], settings(), seed=0, temperature=0, max_tokens=90, extra=forced)
    stopping = chat_body(sides[0], settings(stop_loops={}), seed=0, temperature=0, max_tokens=90, extra=forced)
    without, reply = answered(settings(), server, body), answered(settings(), server, stopping)
    assert (without.finish_reason, without.completion_tokens) == ("length", 90)
    assert (reply.finish_reason, reply.completion_tokens) == ("repetition", 24)


def test_the_thinking_budget_closes_the_reasoning_and_leaves_it_in_the_text(server, sides):
    annotation = settings(thinking_budget=4)
    reply = answered(annotation, server, chat_body(sides[1], annotation, seed=0, temperature=0))
    thought, closed, answer = reply.text.partition(THINK_CLOSE)
    assert closed and len(thought.split()) <= 5 and answer.strip().startswith("<answer>")


def test_a_wrong_name_and_a_context_too_short_are_refused(server, sides):
    with pytest.raises(Fatal, match="serves miniature, not `another`"):
        examined(settings(model="another"), server, sides)
    with pytest.raises(Fatal, match="4,096 tokens"):
        examined(settings(completion={"max_tokens": 4096}), server, sides)


def test_a_server_with_a_reasoning_parser_is_refused(sides, tmp_path):
    annotation = settings("--reasoning-parser", "glm45")
    with (
        embedded_annotator(annotation, tmp_path / "log") as endpoints,
        pytest.raises(Fatal, match="without --reasoning-parser"),
    ):
        examined(annotation, endpoints[0], sides)


def test_a_server_without_media_and_without_reasoning_config_is_refused_for_what_needs_them(sides, tmp_path):
    annotation = settings("--limit-mm-per-prompt", '{"image": 0, "video": 0}')
    with embedded_annotator(annotation, tmp_path / "log") as endpoints:
        examined(annotation, endpoints[0], sides[:1])
        with pytest.raises(Fatal, match="does not answer image sides"):
            examined(annotation, endpoints[0], sides)
        with pytest.raises(Fatal, match="--reasoning-config"):
            examined(settings(thinking_budget=64), endpoints[0], sides[:1])
