"""Rows of the coming steps, read and encoded in the background while the model works on the present one.

Guarantees: what a step holds does not depend on the threads; a row that cannot be used is a rejection with its reason,
told once, and never replaced by another; torch's random state is not touched. One step ahead is in memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from umer1_core.backbone.collate import Encoder, Row
from umer1_core.errors import BadInput, Fatal
from umer1_core.pairs import media_from_record
from umer1_core.template import training_prompt
from umer1_core.training.data.batches import Batches
from umer1_core.training.data.cold_start import ColdStart, PairRows, negative_sides
from umer1_core.training.data.pair_table import Rejection

_ROWS_A_JOB = 8


@dataclass(frozen=True, slots=True)
class StepPairs:
    """A process's part of a step. step, epoch: from zero; drawn: its rows, used or not.

    rejections: those not told before; lost_negatives: hard negatives that could not be used.
    """

    step: int
    epoch: int
    pairs: list[PairRows]
    rejections: list[Rejection]
    drawn: int
    lost_negatives: int = 0


@dataclass(frozen=True, slots=True)
class LoaderSettings:
    """workers: threads that encode, 0: none; prefetch: steps made ahead; responses: False leaves them out (DUME)."""

    workers: int = 2
    prefetch: int = 1
    negatives_per_query: int = 0
    responses: bool = True


_Encoded = tuple[PairRows | Rejection, int]  # and its negatives that could not be used


class Loader:
    """Iterates over the steps first to last, last excluded; a context manager that stops its threads."""

    def __init__(
        self,
        data: ColdStart,
        batches: Batches,
        encoder: Encoder,
        first: int,
        last: int,
        settings: LoaderSettings | None = None,
        rank: int = 0,
        world: int = 1,
        told: Sequence[str] = (),
    ) -> None:
        """told: pair_ids of rejections already on record, as of the run before a resume."""
        self._data, self._batches, self._encoder = data, batches, encoder
        self._settings = settings or LoaderSettings()
        self._next, self._last, self._rank, self._world = first, last, rank, world
        self._told = set(told)
        self._ahead: deque[_Step] = deque()
        self._stopped = threading.Event()
        workers = self._settings.workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="umer1-loader") if workers else None

    def __iter__(self) -> Iterator[StepPairs]:
        return self

    def __next__(self) -> StepPairs:
        """Raises what a thread raised, with the row it happened at; the loader is closed then."""
        try:
            ahead = self._settings.prefetch if self._pool else 0
            while len(self._ahead) <= ahead and self._next < self._last and not self._stopped.is_set():
                self._ahead.append(self._start(self._next))
                self._next += 1
            if not self._ahead:
                raise StopIteration
            return self._finish(self._ahead.popleft())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop: nothing more is begun, what waits is dropped, and the rows being encoded end."""
        self._stopped.set()
        self._ahead.clear()
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _start(self, step: int) -> _Step:
        epoch, rows = self._batches.share(step, self._rank, self._world)
        order = np.argsort(rows, kind="stable")  # rows of one group lie together
        jobs = []
        for first in range(0, len(order), _ROWS_A_JOB):
            places = order[first : first + _ROWS_A_JOB]
            jobs.append((places, self._submit(rows[places].tolist())))
        return _Step(step, epoch, len(rows), jobs)

    def _submit(self, numbers: list[int]) -> Future[list[_Encoded]]:
        if self._pool:
            return self._pool.submit(self._encode_rows, numbers)
        done: Future[list[_Encoded]] = Future()
        done.set_result(self._encode_rows(numbers))
        return done

    def _finish(self, step: _Step) -> StepPairs:
        found: list[_Encoded | None] = [None] * step.drawn
        for places, job in step.jobs:
            for place, encoded in zip(places, job.result(), strict=True):
                found[place] = encoded
        results = [encoded for encoded in found if encoded is not None]
        pairs = [pair for pair, _ in results if isinstance(pair, PairRows)]
        new = [r for r, _ in results if isinstance(r, Rejection) and r.pair_id not in self._told]
        new = list({rejection.pair_id: rejection for rejection in new}.values())
        self._told.update(rejection.pair_id for rejection in new)
        return StepPairs(step.step, step.epoch, pairs, new, step.drawn, sum(lost for _, lost in results))

    def _encode_rows(self, numbers: list[int]) -> list[_Encoded]:
        encoded: list[_Encoded] = []
        for record in self._data.rows(numbers):
            if self._stopped.is_set():
                break
            encoded.append(self._encode(record))
        return encoded

    def _encode(self, record: dict[str, Any]) -> _Encoded:
        try:
            try:
                query, target = self._side(record, "query"), self._side(record, "target")
            except BadInput as error:
                return Rejection(record["pair_id"], record["source"], error.reason, error.detail), 0
            negatives, lost = self._negatives(record)
        except Exception as error:
            raise Fatal(
                f"Pair {record['pair_id']} of {record['source']} cannot be encoded: {type(error).__name__}: {error}.",
                "This is a fault of the program or the machine, not of the row: report it with this message.",
            ) from error
        names = (record["pair_id"], record["source"])
        return PairRows(*names, query, target, record["query_key"], record["target_key"], negatives), lost

    def _side(self, record: dict[str, Any], role: str) -> Row:
        media = [media_from_record(item) for item in record[f"{role}_media"]]
        response = record[f"{role}_response"] if self._settings.responses else ""
        try:
            return self._encoder.encode(record[f"{role}_prompt"], media, response)
        except BadInput as error:
            raise BadInput(error.reason, f"{role}: {error.detail}") from error

    def _negatives(self, record: dict[str, Any]) -> tuple[tuple[Row, ...], int]:
        rows, lost = [], 0
        for side in negative_sides(record, self._settings.negatives_per_query):
            try:
                rows.append(self._encoder.encode(training_prompt(side.text), side.media))
            except BadInput:
                lost += 1
        return tuple(rows), lost


@dataclass(frozen=True, slots=True)
class _Step:
    step: int
    epoch: int
    drawn: int
    jobs: list[tuple[np.ndarray, Future[list[_Encoded]]]]
