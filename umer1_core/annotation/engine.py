"""The annotation engine: one fleet of servers for a whole process, and every shard in progress feeds it.

Guarantees: a side of a shard is in its `annotations` exactly once a sample, as a completion or as a dead letter; what
was answered is durable within a quarter of a second and never asked for again; memory holds the shards in progress
and no more. When the whole annotator is gone the run stops with Fatal; the same command goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import uvloop
from prometheus_client import CollectorRegistry, start_http_server

from schemas.recipe import Annotation
from schemas.tables import ANNOTATIONS
from umer1_core import loops
from umer1_core.annotation.annotator import annotator_fingerprint, chat_body
from umer1_core.annotation.client import ChatClient
from umer1_core.annotation.endpoints import read_endpoints
from umer1_core.annotation.fleet import Fleet
from umer1_core.annotation.journal import Journal, Key, open_journal
from umer1_core.annotation.ledger import LIVE_FILE, Ledger, LedgerCollector, write_live
from umer1_core.annotation.plan import ParentAnnotations
from umer1_core.annotation.preflight import examine
from umer1_core.annotation.roster import Roster
from umer1_core.annotation.shard_run import ShardRun, Wanted, wanted
from umer1_core.errors import StorageError, Umer1Error
from umer1_core.pairs import Side
from umer1_core.store import ShardEntry, Store

_REPORT_SECONDS = 2.0
_CANARY = Side("ok")
Say = Callable[[str], None]
_logger = logging.getLogger(__name__)


def annotate_shard(
    store: Store,
    shard: str,
    annotation: Annotation,
    endpoints: list[str],
    journal_folder: Path,
    fingerprint: str,
    parent: ParentAnnotations | None = None,
    patience_s: float = 5.0,
) -> ShardEntry:
    """Write the shards of `attempts` and `annotations` for a `sides` shard; returns the entry of the latter.

    A finished shard is left as it is. parent: answers of earlier versions, taken over instead of asking again.
    patience_s: how long the endpoints may take to answer at first.
    Raises Fatal when the annotator is unreachable or the wrong one, StorageError when rows cannot be kept.
    """
    if (finished := store.entry("annotations", shard, fingerprint)) is not None:
        return finished
    journal_path = journal_folder / f"{shard}.jsonl"
    annotator = annotator_fingerprint(annotation)
    with open_journal(journal_path, annotator, _logger.info) as journal:
        # Another process may have finished it while this one waited for the journal.
        if (finished := store.entry("annotations", shard, fingerprint)) is None:
            sides = store.read_shard("sides", shard).to_pylist()
            taken, rounds = parent.for_sides({side["side_key"] for side in sides}) if parent else ({}, {})
            asked = wanted(sides, annotation.samples)
            # What this version has asked for itself is its own, also where it may be had elsewhere by now.
            own = journal.settled | journal.asked.keys()
            reused = {key: taken[key] for key in asked if key in taken and key not in own}
            todo = [one for key, one in asked.items() if key not in journal.settled and key not in reused]
            requests = 0
            if todo:
                with open_engine(annotation, endpoints, journal_folder / LIVE_FILE, patience_s) as engine:
                    requests = engine.finish(annotator, journal, rounds, todo)
            attempts, answered = journal.tables()
            rows = _in_order(asked, sides, answered, reused)
            store.write_shard("attempts", shard, attempts, fingerprint)
            finished = store.write_shard(
                "annotations", shard, rows, fingerprint, **shard_metrics(rows, requests, len(reused))
            )
        journal_path.unlink(missing_ok=True)
    return finished


class Engine:
    """A thread with an event loop, and in it the fleet. Use `open_engine`."""

    def __init__(self, annotation: Annotation, live_file: Path, say: Say) -> None:
        self.annotation, self.live_file, self.say = annotation, live_file, say
        self.ledger = Ledger()
        self._runs: set[ShardRun] = set()
        self._ready: Future[None] = Future()
        self._stop = asyncio.Event()

    def start(self, endpoints: list[str], patience_s: float, probes: Sequence[Side]) -> None:
        """Returns when a server is ready. Raises Fatal when none is, or one is the wrong one."""
        self._thread = threading.Thread(
            target=self._run, args=(endpoints, patience_s, probes), name="annotation-engine", daemon=True
        )
        self._thread.start()
        self._ready.result()

    def finish(self, annotator: str, journal: Journal, rounds: dict[str, int], todo: Sequence[Wanted]) -> int:
        """Ask for the sides of a shard; the number of requests sent. Raises what ended the shard or the fleet."""
        return asyncio.run_coroutine_threadsafe(self._finish(annotator, journal, rounds, todo), self._loop).result()

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self, endpoints: list[str], patience_s: float, probes: Sequence[Side]) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            self._loop = runner.get_loop()
            try:
                runner.run(self._live(endpoints, patience_s, probes))
            except BaseException as error:
                if self._ready.done():
                    _logger.exception("The annotation engine ended.")
                else:
                    self._ready.set_exception(error)

    async def _live(self, endpoints: list[str], patience_s: float, probes: Sequence[Side]) -> None:
        annotation = self.annotation

        async def examined(client: ChatClient, base_url: str) -> bool:
            return (await examine(client, base_url, annotation, probes)).by_reference

        canary = chat_body(_CANARY, annotation, seed=0, temperature=0.0, max_tokens=1)
        async with ChatClient(annotation) as client:
            roster = Roster(annotation, client, examined, canary, self._failed, self.say)
            self.fleet = Fleet(client, roster)
            try:
                addresses = await asyncio.to_thread(read_endpoints, annotation, endpoints)
                reread = (lambda: read_endpoints(annotation, endpoints)) if annotation.endpoints_file else None
                await roster.open(addresses, patience_s, reread)
                with _metrics_server(annotation.metrics_port, LedgerCollector(self.ledger, self.fleet), self.say):
                    self._ready.set_result(None)
                    await self._report_until_stopped()
            finally:
                await roster.close()

    async def _finish(self, annotator: str, journal: Journal, rounds: dict[str, int], todo: Sequence[Wanted]) -> int:
        run = ShardRun(self.annotation, annotator, self.fleet, journal, self.ledger, rounds)
        self._runs.add(run)
        try:
            return await run.finish(todo)
        finally:
            self._runs.discard(run)

    def _failed(self, error: Umer1Error) -> None:
        for run in self._runs:
            run.fail(error)

    async def _report_until_stopped(self) -> None:
        told: list[str] = []
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _REPORT_SECONDS)
            stalled = self.ledger.stalled(self.fleet)
            if stalled and not told:
                self.say(f"Nothing has been answered for long; waiting for {'; '.join(stalled)}.")
            told = stalled
            try:
                write_live(self.live_file, self.ledger.snapshot(self.fleet, stalled))
            except OSError as error:  # a view; what must be kept is in the journals, which say so themselves
                _logger.warning("%s cannot be written: %s", self.live_file, error.strerror)


_engines: dict[str, tuple[Engine, int]] = {}
_engines_lock = threading.Lock()


@contextlib.contextmanager
def open_engine(
    annotation: Annotation,
    endpoints: list[str],
    live_file: Path,
    patience_s: float = 5.0,
    probes: Sequence[Side] = (),
    say: Say = _logger.info,
) -> Iterator[Engine]:
    """The process's engine for these settings: started by the first who opens it, stopped by the last who leaves.

    probes: sides of the run, one a modality, with which every server is examined before it is given work.
    """
    key = f"{annotation.model_dump_json()} {endpoints}"
    with _engines_lock:
        engine, users = _engines.get(key, (None, 0))
        if engine is None:
            # Compiling it when the first completion looks suspicious would hold up all others.
            threading.Thread(target=loops.prepare, name="prepare-loops", daemon=True).start()
            engine = Engine(annotation, live_file, say)
            engine.start(endpoints, patience_s, probes)
        _engines[key] = engine, users + 1
    try:
        yield engine
    finally:
        with _engines_lock:
            engine, users = _engines.pop(key)
            if users > 1:
                _engines[key] = engine, users - 1
            else:
                engine.stop()


def _in_order(
    asked: Mapping[Key, Wanted], sides: list[dict[str, Any]], answered: pa.Table, reused: Mapping[Key, dict[str, Any]]
) -> pa.Table:
    """The shard's annotations in the order of its sides, then samples; every key once. Raises StorageError if not."""
    rows = pa.concat_tables([answered, pa.Table.from_pylist(list(reused.values()), schema=ANNOTATIONS)])
    keys = zip(rows["side_key"].to_pylist(), rows["sample"].to_pylist(), strict=True)
    found = {key: index for index, key in enumerate(keys)}
    if missing := asked.keys() - found.keys():
        raise StorageError(
            f"{len(missing)} answers are not in the journal, of side {min(missing)[0]} among others: it was changed.",
            "Run the same command: they are asked for again.",
        )
    place = {side["side_key"]: position for position, side in enumerate(sides)}
    order = sorted(asked, key=lambda key: (place[key[0]], key[1]))
    return rows.take(pa.array([found[key] for key in order], pa.int64()))


def shard_metrics(rows: pa.Table, requests: int, reused: int) -> dict[str, Any]:
    """What the entry of a shard of annotations counts."""
    return {
        "requests": requests,
        "reused": reused,
        "errors": sum(reason == "error" for reason in rows["finish_reason"].to_pylist()),
        "prompt_tokens": sum(rows["prompt_tokens"].to_pylist()),
        "completion_tokens": sum(rows["completion_tokens"].to_pylist()),
    }


@contextlib.contextmanager
def _metrics_server(port: int, collector: LedgerCollector, say: Say) -> Iterator[None]:
    if not port:
        yield
        return
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, registry=registry)
    except OSError as error:
        say(f"No Prometheus metrics: port {port} cannot be used ({error.strerror}).")
        yield
        return
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
