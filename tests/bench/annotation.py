"""The annotation engine against the plain way: the openai client with asyncio.gather, nothing durable.

Both against the same stand-in server, a process of its own with 50 ms latency. The plain client's answers are lost if
it dies; ours are journalled and committed.
"""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from openai import AsyncOpenAI

from tests.annotation.sides import settings, text_sides
from tests.annotation.stand_in import stand_in
from tests.bench.line import Line
from umer1_core.annotation.engine import annotate_shard
from umer1_core.template import annotation_text

_ROWS, _IN_FLIGHT = 3_000, 256


def lines() -> Iterator[Line]:
    texts = [f"side number {i}" for i in range(_ROWS)]
    with stand_in(latency=0.05) as address:
        plain = _plain(texts, address)
        ours = _ours(texts, address)
    yield Line("annotation: durable rows/s", ours[0], plain[0], "rows/s", "openai client, gather", 2.0, True)
    yield Line("annotation: CPU a row", ours[1], plain[1], "ms", "openai client, gather", 0.5, False)


def _ours(texts: list[str], address: str) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        store = text_sides(Path(folder), texts)
        started, cpu = time.perf_counter(), time.process_time()
        annotate_shard(
            store, "00000", settings(address, concurrency=_IN_FLIGHT), [f"{address}/v1"], Path(folder) / "journal", "f"
        )
        return _rates(len(texts), started, cpu)


def _plain(texts: list[str], address: str) -> tuple[float, float]:
    async def run() -> None:
        slots = asyncio.Semaphore(_IN_FLIGHT)
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=2) as client:

            async def ask(text: str) -> str:
                async with slots:
                    content = [{"type": "text", "text": annotation_text(text)}]
                    reply = await client.chat.completions.create(
                        model="stand-in", messages=[{"role": "user", "content": content}]
                    )
                    return reply.choices[0].message.content

            await asyncio.gather(*(ask(text) for text in texts))

    started, cpu = time.perf_counter(), time.process_time()
    asyncio.run(run())
    return _rates(len(texts), started, cpu)


def _rates(rows: int, started: float, cpu: float) -> tuple[float, float]:
    return rows / (time.perf_counter() - started), 1e3 * (time.process_time() - cpu) / rows
