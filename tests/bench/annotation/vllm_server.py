"""The real vLLM with the miniature's teacher: our throughput beside the most eager client there can be.

That client holds every request ready as bytes, sends all at once, reads the answers and does nothing with them. Both
send the same requests (images and clips inline, equal seeds), in alternating order after a warm-up; medians of five.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiohttp
import uvloop

from schemas.recipe import Annotation, LoopStop
from tests.bench.annotation import runs
from tests.bench.line import Line
from umer1_core.annotation.annotator import chat_body, request_seed
from umer1_core.annotation.embedded import embedded_annotator
from umer1_core.miniature.prepare import ensure_world
from umer1_core.pairs import Side, side_from_record
from umer1_core.recipes import miniature_recipe
from umer1_core.sampling.sample import list_sources, sample_source
from umer1_core.sampling.sides import index_sides
from umer1_core.store import Store

_PAIRS, _SIDES, _ROUNDS = 700, 1_000, 5


def lines() -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as folder:
        sides = _sides(Path(folder))
        yield Line("annotation: generations, equal sides once", *_coalesced(folder), "sides", "one a use", 1.0, False)
        recipe = miniature_recipe().annotation
        same = {"ladder": recipe.ladder.model_copy(update={"attempts": 1}), "media": "inline", "concurrency": 512}
        annotation = recipe.model_copy(update=same)
        with embedded_annotator(annotation, Path(folder) / "vllm.log") as endpoints:
            annotation = annotation.model_copy(update={"endpoints": endpoints})
            ours, eager = _compare(folder, sides, annotation)
            stopped, plain = (_tokens(folder, sides, annotation, stop) for stop in (LoopStop(), None))
    yield Line("annotation: tokens, loops ended by vLLM", stopped, plain, "tokens", "loops left alone", 1.0, False)
    yield Line("annotation: real vLLM, rows/s", ours, eager, "rows/s", "all sent at once, nothing kept", 0.97, True)


def _compare(folder: str, sides: list[Side], annotation: Annotation) -> tuple[float, float]:
    bodies = [_body(side, annotation) for side in sides]
    _eager(bodies, annotation)
    ours, eager = [], []
    for number in range(_ROUNDS):
        with tempfile.TemporaryDirectory(dir=folder) as root:
            store = runs.write_sides(root, sides)
            if number % 2:
                ours.append(runs.ours(store, annotation).rate)
                eager.append(_eager(bodies, annotation))
            else:
                eager.append(_eager(bodies, annotation))
                ours.append(runs.ours(store, annotation).rate)
    return statistics.median(ours), statistics.median(eager)


def _tokens(folder: str, sides: list[Side], annotation: Annotation, stop: LoopStop | None) -> float:
    """Generated for all sides."""
    with tempfile.TemporaryDirectory(dir=folder) as root:
        store = runs.write_sides(root, sides)
        runs.ours(store, annotation.model_copy(update={"stop_loops": stop}))
        return float(sum(entry.metrics["completion_tokens"] for entry in store.entries("annotations")))


def _body(side: Side, annotation: Annotation) -> bytes:
    seed = request_seed(side.key, annotation.completion, 0)
    return chat_body(side, annotation, seed=seed, temperature=annotation.completion.temperature)


def _eager(bodies: Sequence[bytes], annotation: Annotation) -> float:
    """Answers a second."""

    async def run() -> None:
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"Content-Type": "application/json"}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

            async def send(body: bytes) -> None:
                async with session.post(f"{annotation.endpoints[0]}/chat/completions", data=body) as response:
                    response.raise_for_status()
                    await response.read()

            await asyncio.gather(*(send(body) for body in bodies))

    started = time.perf_counter()
    uvloop.run(run())
    return len(bodies) / (time.perf_counter() - started)


def _sides(folder: Path) -> list[Side]:
    """Of the miniature's world, every modality."""
    recipe = miniature_recipe()
    ensure_world(folder / "world", _PAIRS, 20, 0)
    moved = (recipe.miniature.root, f"{folder}/world")
    sources = [source.model_copy(update={"root": source.root.replace(*moved)}) for source in recipe.sources]
    store = Store(str(folder / "sampled"))
    for spec in list_sources(sources):
        sample_source(spec, 0, store)
    index_sides(store, _SIDES, 0)
    return [side_from_record(row) for row in store.iterate("sides")][:_SIDES]


def _coalesced(folder: str) -> tuple[float, float]:
    """Distinct sides, and how often they stand in pairs."""
    uses = Store(f"{folder}/sampled").read("sides", ["uses"])["uses"].to_pylist()
    return len(uses), sum(uses)
