"""The filters: loops against datatrove's Gopher filter and a loop over periods; verdicts without tokenising, and again.

Rows are 1,289 tokens of about four characters, as UME-R1's are. Words come in Zipf's proportions; one row in eleven
ends in a loop of a span of up to 60 tokens (UME-R1 section 2 keeps 83 % of the pairs, hence about 91 % of the sides).
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.recipe import Filters
from tests.bench import peers
from tests.bench.line import Line, median_cpu_seconds
from umer1_core.filtering.scores import Completions, find_loops, score
from umer1_core.filtering.tokens import Encoded
from umer1_core.filtering.verdicts import judge, stored_runs
from umer1_core.loops import profiles

_PEERS_PYTHON = Path(".venv-peers/bin/python")
_TOKENS, _ROWS, _LOOPING, _PEER_ROWS = 1_289, 4_096, 11, 200
_VOCABULARY = 60_000


def lines() -> Iterator[Line]:
    ids = _rows()
    flat, offsets = ids.reshape(-1), np.arange(_ROWS + 1) * _TOKENS
    ours = _ROWS / median_cpu_seconds(partial(profiles, flat, offsets))
    texts = _texts(ids)
    yield Line("data: loops, every period", ours, _gopher(texts[:_PEER_ROWS]), "rows/s", "datatrove Gopher", 100, True)
    plain = 2 / median_cpu_seconds(lambda: [_loop_over_periods(row.tolist()) for row in ids[:2]], runs=1)
    yield Line("data: loops, every period", ours, plain, "rows/s", "loop over periods", 1_000, True)
    yield Line(f"data: loops, {_TOKENS:,} tokens a row, one core", ours, 100_000, "rows/s", "goal", 1.0, True)

    encoded = Encoded(flat, offsets, np.full(_ROWS, _TOKENS - 20, np.int32))
    completions = Completions(texts, ["stop"] * _ROWS, ["Find an image that matches."] * _ROWS)
    whole = _ROWS / median_cpu_seconds(lambda: _verdicts(completions, encoded), runs=3)
    yield Line("data: verdicts without tokenising, one core", whole, 5_000, "rows/s", "goal", 1.0, True)
    again = _scores(completions, encoded)
    rate = _ROWS / median_cpu_seconds(lambda: _judge_again(again))
    yield Line("data: verdicts from stored scores, one core", rate, 200_000, "rows/s", "goal", 1.0, True)


def _rows() -> NDArray[np.int32]:
    rng = np.random.default_rng(0)
    rows = np.minimum(rng.zipf(1.2, (_ROWS, _TOKENS)), _VOCABULARY - 1).astype(np.int32)
    for row in rows[::_LOOPING]:
        start = int(rng.integers(200, _TOKENS - 100))
        row[start:] = np.resize(row[: rng.integers(1, 61)], _TOKENS - start)
    return rows


def _texts(ids: NDArray[np.int32]) -> list[str]:
    """A completion for each row of ids: a word of three letters on average and a space for every token."""
    lengths = [1 + number % 5 for number in range(_VOCABULARY)]
    words = ["".join(chr(97 + number // 26**place % 26) for place in range(n)) for number, n in enumerate(lengths)]
    thoughts = (" ".join(words[number] for number in row) for row in ids)
    return [
        f"<think>It’s {thought}.</think><answer>two dogs on grass\n(Essence: dogs)</answer>" for thought in thoughts
    ]


def _gopher(texts: list[str]) -> float:
    """Rows a second of CPU."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.jsonl"
        file.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
        command = [str(_PEERS_PYTHON), str(Path(str(peers.__file__)).with_name("gopher_runner.py")), str(file)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return float(found["rows"] / found["cpu_s"])


def _loop_over_periods(ids: list[int]) -> tuple[int, int]:
    best = (0, 0)
    for period in range(1, len(ids) // 4 + 1):
        run = 0
        for i in range(period, len(ids)):
            run = run + 1 if ids[i] == ids[i - period] else 0
            if (run + period) / period >= 4 and run + period > best[1]:
                best = (period, run + period)
    return best


def _scores(completions: Completions, encoded: Encoded) -> pa.Table:
    return score(completions, encoded.reasoning, find_loops(encoded, Filters().repeat_min_count))


def _verdicts(completions: Completions, encoded: Encoded) -> pa.Table:
    return _judge_again(_scores(completions, encoded))


def _judge_again(scores: pa.Table) -> pa.Table:
    filters = Filters()
    runs = stored_runs(scores, filters.repeat_min_count)
    assert runs is not None
    return judge(scores, filters, *runs)
