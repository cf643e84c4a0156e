"""Whether a server can annotate this run, found out before a million requests go to it.

Guarantee: what the recipe asks for was seen to have its effect on the run's own sides. Being accepted shows nothing:
servers ignore fields and media that they do not know. About ten short requests, the cheapest first; a Fatal names the
server, what is wrong and the remedy.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from schemas.recipe import Annotation, LoopStop
from umer1_core.annotation.annotator import chat_body
from umer1_core.annotation.client import ChatClient, Reply
from umer1_core.annotation.embedded import THINKING
from umer1_core.errors import BadInput, Fatal, ServerFailed, safe_url
from umer1_core.media import data_url, file_url, local_path
from umer1_core.pairs import Side, side_from_record
from umer1_core.template import THINK_CLOSE, THINK_OPEN

Kind = Literal["text", "image", "clip"]

_ROUND_TRIP_TOKENS = 64
_SHORTEST_PROMPT = 128  # tokens of the annotation prompt itself, about
_MARKER_TOKENS = 3  # a template writes so many for a picture that the model never sees
_ORDINARY_TOKENS = (64, 100, 40)  # one byte each in byte-level vocabularies; tried in turn, should one end the text
_LITTLE_THOUGHT, _LITTLE_ANSWER = 2, 16
_AFTER_FAILURE_SECONDS = 0.5
_CANDIDATES = 4
_SMALL_EDGE, _LONG_SHAPE = 56, 4  # processors refuse, or blow up, what is smaller or longer


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server was seen to do. `max_model_len` is 0 where it does not say."""

    by_reference: bool
    max_model_len: int


async def examine(
    client: ChatClient, base_url: str, annotation: Annotation, sides: Sequence[Side] = ()
) -> Capabilities:
    """Refuses a server that would waste the run. Raises Fatal, or Transient when it does not answer now.

    `sides` are of the run (`probe_sides`); without them only the model's name and its context length are looked at.
    """
    server = _Server(client, base_url, annotation)
    context = await server.context()
    if not sides:
        return Capabilities(annotation.media == "reference", context)
    try:
        return Capabilities(await _seen(server, context, sides), context)
    except BadInput as error:
        raise Fatal(
            f"A side that servers are examined with can no longer be read: {error.message}.",
            "Restore the file; then run the same command.",
        ) from error


async def _seen(server: _Server, context: int, sides: Sequence[Side]) -> bool:
    """All checks that need sides; whether image files can go by reference."""
    firsts = {_kind(side): side for side in reversed(sides)}
    replies = {kind: await server.round_trip(kind, side) for kind, side in sorted(firsts.items(), reverse=True)}
    server.check_context(context, max(reply.prompt_tokens for reply in replies.values()))
    server.check_tags(replies.values())
    if server.annotation.stop_loops:
        await server.check_loop_stop(sides[0], server.annotation.stop_loops)
    if server.annotation.thinking_budget is not None:
        await server.check_thinking_budget(sides[0], replies[_kind(sides[0])])
    images = [side for side in sides if _kind(side) == "image"]
    return await server.reads_files(images, replies.get("image"))


def probe_sides(rows: Iterable[Mapping[str, Any]]) -> list[Side]:
    """The sides to examine servers with, from rows of the table `sides`: small and readable ones.

    One text, one clip, and an image of every source: a server may be allowed one source's folder and not another's.
    """
    candidates: dict[tuple[Kind, str], list[tuple[tuple[Any, ...], Mapping[str, Any]]]] = defaultdict(list)
    for row in rows:
        kind = _record_kind(row)
        group = candidates[kind, row["source"] if kind == "image" else ""]
        group.append((_oddness(row), row))
        if len(group) > 32 * _CANDIDATES:
            group[:] = heapq.nsmallest(_CANDIDATES, group, key=lambda item: item[0])
    found: dict[Kind, list[tuple[tuple[Any, ...], Side]]] = {"text": [], "image": [], "clip": []}
    for (kind, _), group in candidates.items():
        best = heapq.nsmallest(_CANDIDATES, group, key=lambda item: item[0])
        chosen = ((oddness, side_from_record(dict(row))) for oddness, row in best)
        found[kind] += [item for item in chosen if _readable(item[1])][:1]
    return [side for kind in found for _, side in sorted(found[kind], key=lambda item: item[0])]


class _Server:
    """The checks on one server; each raises Fatal."""

    def __init__(self, client: ChatClient, base_url: str, annotation: Annotation) -> None:
        self.client, self.base_url, self.annotation = client, base_url, annotation
        self.name = f"The annotator at {safe_url(base_url)}"
        # What is not being probed stays out: a refusal must point at what is refused.
        self.plain = annotation.model_copy(update={"stop_loops": None, "thinking_budget": None})

    async def context(self) -> int:
        """The context length, after a look at the model's name and at whether a completion can fit."""
        served = await self.client.served(self.base_url)
        if self.annotation.model not in served:
            raise Fatal(
                f"{self.name} serves {', '.join(served) or 'no model'}, not `{self.annotation.model}`.",
                "Set `annotation.model` to the name that the server uses.",
            )
        length = served[self.annotation.model]
        self.check_context(length, _SHORTEST_PROMPT)
        return length

    def check_context(self, length: int, prompt_tokens: int) -> None:
        wanted = self.annotation.completion.max_tokens
        if length and length < wanted + prompt_tokens:
            raise Fatal(
                f"{self.name} holds {length:,} tokens: a prompt of {prompt_tokens:,} and a completion of {wanted:,} "
                "do not fit.",
                "Serve with a larger --max-model-len, or lower `annotation.completion.max_tokens`.",
            )

    async def round_trip(self, kind: Kind, side: Side) -> Reply:
        """One real request. Its media must make the prompt longer: some servers drop what they cannot read."""
        reply = await self._ask(kind, chat_body(side, self.plain, seed=0, temperature=0, max_tokens=self._tokens))
        if not reply.prompt_tokens or not reply.completion_tokens:
            raise Fatal(
                f"{self.name} does not say how many tokens a request took (`usage`).",
                "Serve with vLLM or another server that counts; the ledger and the filters need it.",
            )
        if side.media:
            bare = await self._ask("text", chat_body(Side(side.text), self.plain, seed=0, temperature=0, max_tokens=1))
            if reply.prompt_tokens - bare.prompt_tokens <= _MARKER_TOKENS * len(side.media):
                raise Fatal(
                    f"{self.name} takes {kind}s and does not look at them: with and without one the prompt has "
                    f"{reply.prompt_tokens:,} and {bare.prompt_tokens:,} tokens.",
                    f"Serve a model that reads {kind}s under the name `{self.annotation.model}`.",
                )
        return reply

    def check_tags(self, replies: Iterable[Reply]) -> None:
        texts = [reply.text for reply in replies]
        if not any(THINK_OPEN in text for text in texts):
            raise Fatal(
                f"{self.name} writes no {THINK_OPEN}, so no answer could have the form; it wrote: {texts[0][:80]!r}.",
                "Serve a reasoning model such as GLM-4.1V-Thinking, without --reasoning-parser, with tags that are "
                "not skipped as special tokens.",
            )

    async def check_loop_stop(self, side: Side, stop: LoopStop) -> None:
        """A completion that may hold one token only is a loop: the server must end it, not the token limit."""
        annotation = self.annotation.model_copy(update={"thinking_budget": None})
        limit = 2 * stop.min_count * stop.min_period + 16
        for token in _ORDINARY_TOKENS:
            body = chat_body(
                side, annotation, seed=0, temperature=0, max_tokens=limit, extra={"allowed_token_ids": [token]}
            )
            reply = await self._probe(body, "stop_loops")
            if reply.finish_reason == "repetition" and reply.completion_tokens < limit:
                return
            if reply.finish_reason != "stop":
                break
        raise Fatal(
            f"{self.name} does not end a completion that repeats one token (it ended by `{reply.finish_reason}` after "
            f"{reply.completion_tokens} tokens).",
            "Serve with vLLM 0.17 or later, or clear `annotation.stop_loops`.",
        )

    async def check_thinking_budget(self, side: Side, unbounded: Reply) -> None:
        """With next to no budget the reasoning closes at once, and earlier than it did without."""
        annotation = self.plain.model_copy(update={"thinking_budget": _LITTLE_THOUGHT})
        body = chat_body(side, annotation, seed=0, temperature=0, max_tokens=_LITTLE_ANSWER)
        reply = await self._probe(body, "thinking_budget")
        thought, closed, _ = reply.text.partition(THINK_CLOSE)
        if not closed or len(thought) >= len(unbounded.text.partition(THINK_CLOSE)[0]):
            raise Fatal(
                f"{self.name} thinks on beyond a budget of {_LITTLE_THOUGHT} tokens; it wrote: {reply.text[:80]!r}.",
                _BUDGET_REMEDY,
            )

    async def reads_files(self, images: Sequence[Side], inline: Reply | None) -> bool:
        """Whether image files can go as `file://`. The last check: vLLM drops the connection after a missing file."""
        if self.annotation.media == "inline":
            return False
        files = [side for side in images if all(file_url(item) for item in side.media)]
        if not files:
            return self.annotation.media == "reference"
        problem = await self._file_problem(files, inline if files[0] == images[0] else None)
        if problem and self.annotation.media == "reference":
            raise Fatal(
                f"{self.name} cannot read the image files of this run: {problem}.",
                "Serve with --allowed-local-media-path on a folder above all sources, or set `annotation.media: auto`.",
            )
        return not problem

    async def _file_problem(self, files: Sequence[Side], inline: Reply | None) -> str:
        for side in files:
            body = chat_body(side, self.plain, seed=0, temperature=0, by_reference=True, max_tokens=1)
            try:
                reply = await self.client.complete(self.base_url, body)
            except (BadInput, ServerFailed) as error:
                return error.message
            if inline is not None and reply.prompt_tokens != inline.prompt_tokens:
                return f"{reply.prompt_tokens:,} prompt tokens by file, {inline.prompt_tokens:,} by content"
            inline = None
        return ""

    @property
    def _tokens(self) -> int:
        return min(_ROUND_TRIP_TOKENS, self.annotation.completion.max_tokens)

    async def _ask(self, kind: Kind, body: bytes) -> Reply:
        try:
            return await self._twice(body)
        except (BadInput, ServerFailed) as error:
            raise Fatal(
                f"{self.name} does not answer {kind} sides: {error.message}.",
                "Serve a model for text, images and clips; for vLLM see deploy/vllm-serve.sh (--limit-mm-per-prompt).",
            ) from error

    async def _probe(self, body: bytes, field: Literal["stop_loops", "thinking_budget"]) -> Reply:
        try:
            return await self._twice(body)
        except (BadInput, ServerFailed) as error:
            remedy = _BUDGET_REMEDY if field == "thinking_budget" else "Clear `annotation.stop_loops`."
            raise Fatal(f"{self.name} does not take `annotation.{field}`: {error.message}.", remedy) from error

    async def _twice(self, body: bytes) -> Reply:
        """A single 500 may be chance; two on a request this small are not."""
        try:
            return await self.client.complete(self.base_url, body)
        except ServerFailed:
            await asyncio.sleep(_AFTER_FAILURE_SECONDS)
            return await self.client.complete(self.base_url, body)


_BUDGET_REMEDY = f"Serve with --reasoning-config '{THINKING}', or clear `annotation.thinking_budget`."


def _kind(side: Side) -> Kind:
    return _kind_of([item.kind for item in side.media])


def _record_kind(row: Mapping[str, Any]) -> Kind:
    return _kind_of([item["kind"] for item in row["media"]])


def _kind_of(media_kinds: Sequence[str]) -> Kind:
    return "text" if not media_kinds else "clip" if "video" in media_kinds else "image"


def _oddness(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Sorts what a processor may refuse last, files before cells and members, then small before large."""
    media = row["media"]
    odd = any(
        min(m["width"], m["height"]) < _SMALL_EDGE
        or max(m["width"], m["height"]) > _LONG_SHAPE * min(m["width"], m["height"])
        for m in media
    )
    inside = any(m["member"] or local_path(m["uri"]) is None for m in media)
    return odd, inside, sum(m["size"] for m in media) + len(row["text"]), row["side_key"]


def _readable(side: Side) -> bool:
    try:
        for item in side.media:
            data_url(item)
    except BadInput:
        return False
    return True
