"""A wrong server is refused by name, with what is wrong and the remedy; a right one is not.

The server here really counts, reads files, stops loops and keeps budgets, each of which a test can take away: so a
check that looked at nothing would let the negative control pass.
"""

import asyncio
import io
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from schemas.recipe import Annotation
from umer1_core.annotation.client import ChatClient
from umer1_core.annotation.preflight import Capabilities, examine, probe_sides
from umer1_core.errors import Busy, Fatal
from umer1_core.media import clip_from_folder, describe
from umer1_core.pairs import Media, Side, side_record

THOUGHT = "<think>" + " ".join(f"step {i}" for i in range(40)) + "</think><answer>a circle</answer>"


@dataclass(frozen=True)
class Behaviour:
    """What the server does; the defaults are a right server. A word of a completion counts as a token."""

    model: str = "annotator"
    max_model_len: int = 16_384
    looks: frozenset[str] = frozenset({"image_url", "video_url"})
    refuses: str = ""
    files_under: str = "/"
    stops_loops: bool = True
    budgets: bool = True
    usage: bool = True
    parser: bool = False
    thought: str = THOUGHT
    fails: int = 0
    status: int = 500


class Server:
    """One behaviour over HTTP; `bodies` is what it was asked."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.is_ = behaviour
        self.bodies: list[dict] = []
        self.failed = 0

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": self.is_.model, "max_model_len": self.is_.max_model_len}]})

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        parts = body["messages"][0]["content"]
        if self.failed < self.is_.fails:
            self.failed += 1
            return web.json_response({"error": "told to"}, status=self.is_.status)
        if any(part["type"] == self.is_.refuses for part in parts):
            return web.json_response({"error": "no such modality"}, status=400)
        if not all(self.may_read(part) for part in parts):
            return web.json_response({"error": "not allowed to read"}, status=400)
        return web.json_response(self.completion(body, parts))

    def may_read(self, part: dict) -> bool:
        url = str(part.get(part["type"], {"url": ""})["url"]) if part["type"] != "text" else ""
        if not url.startswith("file://"):
            return True
        path = Path(urllib.parse.unquote(url.removeprefix("file://")))
        return bool(self.is_.files_under) and path.is_relative_to(self.is_.files_under) and path.is_file()

    def completion(self, body: dict, parts: list[dict]) -> dict:
        words = self.is_.thought.split(" ")
        finish = "stop"
        if allowed := body.get("allowed_token_ids"):
            words, finish = [f"t{allowed[0]}"] * body["max_tokens"], "length"
            if self.is_.stops_loops and (stop := body.get("repetition_detection")):
                words, finish = words[: stop["min_count"] * stop["min_pattern_size"]], "repetition"
        elif self.is_.budgets and (budget := body.get("thinking_token_budget")):
            words = [*words[:budget], "</think><answer>a", "circle</answer>"]
        if len(words) > body["max_tokens"]:
            words, finish = words[: body["max_tokens"]], "length"
        prompt = 100 + sum(70 if part["type"] in self.is_.looks else 0 for part in parts)
        text = " ".join(words)
        message = {"content": None, "reasoning": text} if self.is_.parser else {"content": text}
        answer = {"model": self.is_.model, "choices": [{"message": message, "finish_reason": finish}]}
        return answer | (
            {"usage": {"prompt_tokens": prompt, "completion_tokens": len(words)}} if self.is_.usage else {}
        )


def annotator(**changes: object) -> Annotation:
    return Annotation.model_validate({"model": "annotator"} | changes)


def examined(
    annotation: Annotation, sides: list[Side], behaviour: Behaviour | None = None
) -> tuple[Capabilities, list[dict]]:
    """What `examine` says of a server with the behaviour, and the requests it took."""

    async def run() -> tuple[Capabilities, list[dict]]:
        server = Server(behaviour or Behaviour())
        application = web.Application(client_max_size=1 << 28)
        application.add_routes([web.get("/v1/models", server.models), web.post("/v1/chat/completions", server.chat)])
        async with TestServer(application) as running, ChatClient(annotation) as client:
            return await examine(client, f"http://127.0.0.1:{running.port}/v1", annotation, sides), server.bodies

    return asyncio.run(run())


def picture(path: Path, size: tuple[int, int] = (64, 64), colour: tuple[int, int, int] = (9, 90, 200)) -> Media:
    sink = io.BytesIO()
    Image.new("RGB", size, colour).save(sink, "JPEG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sink.getvalue())
    return describe(Media("image", str(path)))


@pytest.fixture
def sides(tmp_path: Path) -> list[Side]:
    """A text, an image and a clip."""
    for i in range(4):
        picture(tmp_path / f"clip/{i}.jpg", colour=(i, i, i))
    return [
        Side("a red circle"),
        Side("", (picture(tmp_path / "a picture.jpg"),)),
        Side("what moves?", (describe(clip_from_folder(tmp_path / "clip", 4)),)),
    ]


def test_a_right_server_passes_with_every_switch_on_in_about_ten_short_requests(sides):
    capabilities, bodies = examined(annotator(stop_loops={}, thinking_budget=500), sides)
    assert capabilities == Capabilities(by_reference=True, max_model_len=16_384)
    assert len(bodies) == 8 and max(body["max_tokens"] for body in bodies) <= 64


def test_without_sides_only_name_and_length_are_looked_at(sides):
    assert examined(annotator(), []) == (Capabilities(False, 16_384), [])
    assert examined(annotator(media="reference"), [])[0].by_reference


def test_a_server_of_another_model_is_refused_by_name_and_remedy(sides):
    with pytest.raises(Fatal, match=r"127\.0\.0\.1:\d+/v1 serves other, not `annotator`.*annotation\.model"):
        examined(annotator(), sides, Behaviour(model="other"))


def test_a_context_that_a_completion_does_not_fit_is_refused_before_any_completion(sides):
    with pytest.raises(Fatal, match=r"8,192 tokens.*completion of 8,704.*max-model-len"):
        examined(annotator(), [], Behaviour(max_model_len=8_192))
    with pytest.raises(Fatal, match="a prompt of 170"):
        examined(annotator(), sides, Behaviour(max_model_len=8_704 + 150))


@pytest.mark.parametrize(("kind", "part"), [("image", "image_url"), ("clip", "video_url")])
def test_a_server_that_drops_media_silently_is_refused(sides, kind, part):
    with pytest.raises(Fatal, match=f"takes {kind}s and does not look at them.*100 and 100 tokens"):
        examined(annotator(), sides, Behaviour(looks=Behaviour.looks - {part}))


def test_a_server_that_refuses_a_modality_is_refused_with_its_words(sides):
    with pytest.raises(Fatal, match=r"does not answer clip sides.*no such modality"):
        examined(annotator(), sides, Behaviour(refuses="video_url"))


def test_only_the_modalities_of_the_run_are_asked_for(sides):
    examined(annotator(), sides[:2], Behaviour(refuses="video_url"))


def test_a_server_that_counts_no_tokens_is_refused(sides):
    with pytest.raises(Fatal, match="usage"):
        examined(annotator(), sides, Behaviour(usage=False))


def test_a_server_that_splits_the_reasoning_off_is_refused(sides):
    with pytest.raises(Fatal, match="reasoning-parser"):
        examined(annotator(), sides, Behaviour(parser=True))


def test_a_model_that_writes_no_tags_is_refused_with_what_it_wrote(sides):
    with pytest.raises(Fatal, match=r"writes no <think>.*'a plain answer'"):
        examined(annotator(), sides, Behaviour(thought="a plain answer"))


def test_a_loop_stop_that_has_no_effect_is_refused(sides):
    with pytest.raises(Fatal, match=r"does not end a completion that repeats.*`length` after 64.*stop_loops"):
        examined(annotator(stop_loops={}), sides, Behaviour(stops_loops=False))


def test_a_budget_that_has_no_effect_is_refused(sides):
    with pytest.raises(Fatal, match=r"thinks on beyond a budget of 2.*reasoning-config.*thinking_budget"):
        examined(annotator(thinking_budget=500), sides, Behaviour(budgets=False))


def test_a_model_that_hardly_thinks_does_not_pass_for_a_budget(sides):
    brief = "<think>a b</think><answer>c</answer>"
    with pytest.raises(Fatal, match="thinks on"):
        examined(annotator(thinking_budget=500), sides, Behaviour(budgets=False, thought=brief))


@pytest.mark.parametrize(
    ("media", "files_under", "by_reference"),
    [("auto", "/", True), ("auto", "", False), ("inline", "/", False), ("reference", "/", True)],
)
def test_files_go_by_reference_where_the_server_reads_them_and_the_recipe_allows(
    sides, media, files_under, by_reference
):
    capabilities, bodies = examined(annotator(media=media), sides, Behaviour(files_under=files_under))
    assert capabilities.by_reference is by_reference
    assert any("file://" in str(body) for body in bodies) is (media != "inline")


def test_by_reference_only_where_the_files_of_every_source_can_be_read(sides, tmp_path):
    elsewhere = Side("", (picture(tmp_path / "other/b.jpg"),))
    allowed = Behaviour(files_under=str(tmp_path / "other"))
    assert not examined(annotator(), [*sides, elsewhere], allowed)[0].by_reference
    assert examined(annotator(), [elsewhere], allowed)[0].by_reference


def test_reference_asked_for_and_not_possible_is_refused_with_the_flag(sides):
    with pytest.raises(Fatal, match=r"cannot read the image files.*not allowed to read.*--allowed-local-media-path"):
        examined(annotator(media="reference"), sides, Behaviour(files_under=""))


def test_one_failure_is_chance_and_two_are_the_server(sides):
    examined(annotator(), sides, Behaviour(fails=1))
    with pytest.raises(Fatal, match="does not answer text sides"):
        examined(annotator(), sides, Behaviour(fails=2))


def test_a_busy_server_is_not_refused_but_asked_later(sides):
    with pytest.raises(Busy):
        examined(annotator(), sides, Behaviour(fails=9, status=503))


def test_a_probe_whose_file_is_gone_is_an_error_that_names_it(sides, tmp_path):
    (tmp_path / "a picture.jpg").unlink()
    with pytest.raises(Fatal, match=r"can no longer be read.*a picture\.jpg"):
        examined(annotator(), sides)


def rows(*named: tuple[str, Side]) -> list[dict]:
    return [{"side_key": side.key, "source": source} | side_record(side) for source, side in named]


def test_probes_are_one_small_text_and_clip_and_an_image_of_every_source(sides, tmp_path):
    text, image, clip = sides
    big = Side("", (picture(tmp_path / "big.jpg", (900, 900)),))
    other = Side("", (picture(tmp_path / "c.jpg", (80, 80)),))
    table = rows(
        ("a", big), ("a", image), ("b", other), ("a", Side("a much longer text " * 9)), ("b", text), ("a", clip)
    )
    assert probe_sides(table) == [text, image, other, clip]
    assert probe_sides(reversed(table)) == [text, image, other, clip]


def test_probes_avoid_shapes_that_processors_refuse_and_files_that_cannot_be_read(sides, tmp_path):
    sliver = Side("", (picture(tmp_path / "sliver.jpg", (8, 60)),))
    gone = Side("", (picture(tmp_path / "gone.jpg", (60, 60)),))
    (tmp_path / "gone.jpg").unlink()
    assert probe_sides(rows(("a", sliver), ("a", gone), ("a", sides[1]))) == [sides[1]]
    assert probe_sides(rows(("a", sliver))) == [sliver]
