"""How much of what the teacher says is true: attribute accuracy per kind of input, measured through vLLM.

    OMP_NUM_THREADS=1 python -m umer1_core.miniature.accuracy

Guarantee: an attribute counts as true only in its order (longest common subsequence with the truth), so naming the
right words for the wrong things does not count. The quoted split is `heldout`, whose combinations no training saw.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from umer1_core.annotation.embedded import embedded_annotator
from umer1_core.miniature.layouts import SHARES
from umer1_core.miniature.rendering import jpeg, png, render_media
from umer1_core.miniature.samples import KINDS, SideSample, draw_pair, named_attributes
from umer1_core.miniature.world import Clip, Page, Split
from umer1_core.recipes import miniature_recipe
from umer1_core.template import annotation_text, parse_annotation

TEACHER = Path(__file__).parent / "teacher"
# What the recipes use: at this temperature a share of the sides fails for the filters, as with the real teacher.
SAMPLING: dict[str, float | int] = {"temperature": 0.8, "top_p": 1.0, "max_tokens": 192}
GREEDY: dict[str, float | int] = {"temperature": 0.0, "max_tokens": 192}
_CONCURRENT = 32


@dataclass(frozen=True, slots=True)
class Truth:
    """What a correct summary names, in order."""

    kind: str
    attributes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Counts over the sides of one kind. `named`, `true` and `expected` count attributes of well-formed answers."""

    sides: int = 0
    well_formed: int = 0
    named: int = 0
    true: int = 0
    expected: int = 0
    exact: int = 0

    @property
    def precision(self) -> float:
        """Of the attributes named, the share that is true."""
        return self.true / self.named if self.named else 0.0

    @property
    def recall(self) -> float:
        return self.true / self.expected if self.expected else 0.0

    @property
    def form(self) -> float:
        return self.well_formed / self.sides if self.sides else 0.0

    @property
    def whole(self) -> float:
        """Of the well-formed answers, the share that names exactly the truth."""
        return self.exact / self.well_formed if self.well_formed else 0.0

    def plus(self, other: Accuracy) -> Accuracy:
        return Accuracy(
            self.sides + other.sides,
            self.well_formed + other.well_formed,
            self.named + other.named,
            self.true + other.true,
            self.expected + other.expected,
            self.exact + other.exact,
        )


def attribute_accuracy(raw_completions: Sequence[str], truths: Sequence[Truth]) -> dict[str, Accuracy]:
    """Accuracy by kind, and over all of them under `all`. Completions of a broken form count as sides only."""
    result: dict[str, Accuracy] = {"all": Accuracy()}
    for raw, truth in zip(raw_completions, truths, strict=True):
        one = _judge(raw, truth)
        result[truth.kind] = result.get(truth.kind, Accuracy()).plus(one)
        result["all"] = result["all"].plus(one)
    return result


def _judge(raw: str, truth: Truth) -> Accuracy:
    response = parse_annotation(raw)
    if response.problem:
        return Accuracy(sides=1)
    named = named_attributes(response.summary)
    return Accuracy(
        sides=1,
        well_formed=1,
        named=len(named),
        true=common_in_order(named, truth.attributes),
        expected=len(truth.attributes),
        exact=int(named == truth.attributes),
    )


def common_in_order(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        previous = row
        row = [0]
        for index, other in enumerate(b):
            row.append(previous[index] + 1 if word == other else max(previous[index + 1], row[index]))
    return row[-1]


# -- the sides that are asked about ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """A side with its media as the bytes a source would hold."""

    side: SideSample
    media: tuple[bytes, ...]

    @property
    def truth(self) -> Truth:
        return Truth(self.side.kind, self.side.attributes)

    def messages(self) -> list[dict[str, Any]]:
        """The request's messages: media first, then the annotation prompt."""
        encoded = [base64.b64encode(data).decode() for data in self.media]
        content: list[dict[str, Any]] = []
        if isinstance(self.side.picture, Clip):
            content.append({"type": "video_url", "video_url": {"url": "data:video/jpeg;base64," + ",".join(encoded)}})
        elif encoded:
            kind = "png" if isinstance(self.side.picture, Page) else "jpeg"
            content.append({"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{encoded[0]}"}})
        content.append({"type": "text", "text": annotation_text(self.side.text)})
        return [{"role": "user", "content": content}]


def draw_cases(split: Split, pairs: int, seed: int = 0) -> list[Case]:
    """Both sides of pairs of every source, in the shares of the world on disk."""
    rng = random.Random(f"cases/{seed}/{split}")
    cases = []
    for source, share in SHARES.items():
        for _ in range(max(1, round(pairs * share))):
            pair = draw_pair(rng, split, source)
            cases += [Case(side, _media(side, rng)) for side in (pair.query, pair.target)]
    return cases


def _media(side: SideSample, rng: random.Random) -> tuple[bytes, ...]:
    if side.picture is None:
        return ()
    encode = png if isinstance(side.picture, Page) else jpeg
    return tuple(encode(image) for image in render_media(side.picture, rng))


# -- vLLM --------------------------------------------------------------------------------------------------------------


@contextmanager
def serve(folder: Path, log: Path, arguments: Sequence[str] = ()) -> Iterator[str]:
    """A vLLM server on a checkpoint under the miniature's settings; yields its OpenAI endpoint."""
    annotation = miniature_recipe().annotation
    embedded = annotation.embedded.model_copy(update={"backend": "vllm", "arguments": list(arguments)})
    with embedded_annotator(
        annotation.model_copy(update={"model": str(folder), "embedded": embedded}), log
    ) as endpoints:
        yield endpoints[0]


async def complete(
    endpoint: str, model: str, conversations: Sequence[list[dict[str, Any]]], sampling: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The answers to conversations, in order, as OpenAI response bodies."""
    slots = asyncio.Semaphore(_CONCURRENT)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:

        async def one(index: int, messages: list[dict[str, Any]]) -> dict[str, Any]:
            body = {"model": model, "messages": messages, "seed": index, **sampling}
            async with slots, session.post(f"{endpoint}/chat/completions", json=body) as response:
                response.raise_for_status()
                answer: dict[str, Any] = await response.json()
                return answer

        return await asyncio.gather(*(one(i, messages) for i, messages in enumerate(conversations)))


def ask(endpoint: str, model: str, cases: Sequence[Case], sampling: Mapping[str, Any] = GREEDY) -> list[str]:
    """The raw completions of the teacher for cases."""
    answers = asyncio.run(complete(endpoint, model, [case.messages() for case in cases], sampling))
    return [answer["choices"][0]["message"]["content"] or "" for answer in answers]


def accuracy_table(title: str, figures: Mapping[str, Accuracy]) -> Table:
    """Kinds down, the shares across; the sum last."""
    table = Table(title=title)
    for name in ("kind", "sides", "form", "attributes true", "attributes found", "whole answer"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for kind in (*(k for k in KINDS if k in figures), "all"):
        one = figures[kind]
        shares = (one.form, one.precision, one.recall, one.whole)
        table.add_row(kind, str(one.sides), *(f"{share:.1%}" for share in shares), end_section=kind == KINDS[-1])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the miniature's teacher through vLLM.")
    parser.add_argument("--teacher", type=Path, default=TEACHER)
    parser.add_argument("--split", choices=("train", "dev", "heldout"), default="heldout")
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--log", type=Path, default=Path("runs/accuracy.log"), help="where vLLM's output goes")
    arguments = parser.parse_args()
    cases = draw_cases(arguments.split, arguments.pairs)
    console = Console()
    with serve(arguments.teacher, arguments.log) as endpoint:
        for name, sampling in (("greedy", GREEDY), ("as sampled", SAMPLING)):
            figures = attribute_accuracy(
                ask(endpoint, str(arguments.teacher), cases, sampling), [case.truth for case in cases]
            )
            console.print(accuracy_table(f"Miniature teacher, {arguments.split}, {name}", figures))


if __name__ == "__main__":
    main()
