"""The annotation engine: beside datatrove's runner, with a slow server, under kill -9, at full size, on the real vLLM.

Stand-in servers are processes of their own (0.02 ms of CPU a request), except for the last two parts.
"""

from collections.abc import Iterator

from tests.bench.annotation import caches, kills, scale, slow_server, throughput, vllm_server
from tests.bench.line import Line


def lines() -> Iterator[Line]:
    for part in (throughput, slow_server, kills, scale, vllm_server, caches):
        yield from part.lines()
