"""What a run has done so far, read from its files: works on a live run, a dead one and a finished one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import orjson

from umer1_core.annotation.journal import count_records
from umer1_core.annotation.ledger import LIVE_FILE
from umer1_core.store import Store
from umer1_core.versions import is_held, local_folder


@dataclass(frozen=True, slots=True)
class StageStatus:
    """`done` of `total` in `unit`; total 0 means it is not known yet. ended: before its total, and for good."""

    stage: str
    done: int
    total: int
    unit: str
    note: str = ""
    ended: bool = False

    @property
    def finished(self) -> bool:
        return self.ended or (self.total > 0 and self.done >= self.total)


@dataclass(frozen=True, slots=True)
class ShardStatus:
    shard: str
    rows: int
    annotated: int
    kept: int | None
    state: str


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """The engine's own view, from its last snapshot. `age_s`: how long ago that was; `eta_s` 0: not known."""

    age_s: float
    eta_s: float
    rows_per_s: float
    tokens_per_s: float
    in_flight: int
    queued: int
    outcomes: dict[str, int]
    completion_tokens: dict[str, int]
    replicas: tuple[dict[str, Any], ...]
    stalled: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunStatus:
    """`live` is None before annotation and once it is finished."""

    root: str
    stages: tuple[StageStatus, ...]
    shards: tuple[ShardStatus, ...]
    at_work: bool
    stage: str
    live: LiveStatus | None = None


def enter_stage(store: Store, stage: str, **facts: Any) -> None:
    """Note that a stage has begun; `facts` are what a reader cannot count, as the number of sources."""
    state = store.read_json("state.json") or {}
    store.write_json("state.json", state | facts | {"stage": stage, "since": time.time()})


def read_status(store: Store) -> RunStatus:
    """Raises nothing on a run that has not begun: everything is zero then."""
    state = store.read_json("state.json") or {}
    shards = _shards(store)
    stages = (
        _sampling(store, state),
        _annotation(shards, str(state.get("annotator", ""))),
        _filtering(store, shards),
        _publishing(store),
        _validation(store),
        *_training(store, state),
    )
    at_work = is_held(store.root, "build") or is_held(store.root, "train")
    return RunStatus(store.root, stages, shards, at_work, str(state.get("stage", "")), _live(store, shards))


def _sampling(store: Store, state: dict[str, Any]) -> StageStatus:
    sources = store.entries("rejections")
    pairs = sum(entry.metrics.get("pairs", 0) for entry in sources)
    rejected = sum(entry.rows for entry in sources)
    return StageStatus(
        "sampling",
        len(sources),
        int(state.get("sources", 0)),
        "sources",
        f"{pairs:,} pairs, {rejected:,} rows rejected",
    )


def _shards(store: Store) -> tuple[ShardStatus, ...]:
    finished = {entry.shard: entry for entry in store.entries("annotations")}
    verdicts = {entry.shard: entry for entry in store.entries("verdicts")}
    journals = local_folder(store, "journal")
    rows = []
    for side in store.entries("sides"):
        annotated = side.rows if side.shard in finished else count_records(journals / f"{side.shard}.jsonl")
        verdict = verdicts.get(side.shard)
        kept = int(verdict.metrics["kept"]) if verdict else None
        state = (
            "filtered" if verdict else "annotated" if side.shard in finished else "moving" if annotated else "waiting"
        )
        rows.append(ShardStatus(side.shard, side.rows, annotated, kept, state))
    return tuple(rows)


def _annotation(shards: tuple[ShardStatus, ...], annotator: str) -> StageStatus:
    done, total = sum(s.annotated for s in shards), sum(s.rows for s in shards)
    return StageStatus("annotation", done, total, "sides", annotator if done < total else "")


def _live(store: Store, shards: tuple[ShardStatus, ...]) -> LiveStatus | None:
    left = sum(s.rows - s.annotated for s in shards)
    file = local_folder(store, "journal") / LIVE_FILE
    if not left or not file.exists():
        return None
    snapshot = orjson.loads(file.read_bytes())
    rate = snapshot["rows_per_s"]
    return LiveStatus(
        age_s=time.time() - snapshot["time"],
        eta_s=left / rate if rate else 0.0,
        replicas=tuple(snapshot["replicas"]),
        stalled=tuple(snapshot["stalled"]),
        **{
            name: snapshot[name]
            for name in ("rows_per_s", "tokens_per_s", "in_flight", "queued", "outcomes", "completion_tokens")
        },
    )


def _filtering(store: Store, shards: tuple[ShardStatus, ...]) -> StageStatus:
    judged = [s for s in shards if s.kept is not None]
    kept, rows = sum(s.kept or 0 for s in judged), sum(s.rows for s in judged)
    note = f"{kept:,} of {rows:,} sides kept ({kept / rows:.1%})" if rows else ""
    return StageStatus("filtering", len(judged), len(shards), "shards", note)


def _publishing(store: Store) -> StageStatus:
    rows = {table: sum(e.rows for e in store.entries(table)) for table in ("cold_start", "rl")}
    done = int(store.exists("manifest.json"))
    return StageStatus(
        "publishing", done, 1, "data set", f"{rows['cold_start']:,} cold-start and {rows['rl']:,} RL pairs"
    )


def _validation(store: Store) -> StageStatus:
    marker = store.read_json("_VALIDATED.json")
    return StageStatus("validation", int(marker is not None), 1, "data set")


def _training(store: Store, state: dict[str, Any]) -> tuple[StageStatus, ...]:
    """Nothing where the recipe asks for no training and none was done by hand; GRPO likewise."""
    if not state.get("training", True) and not store.exists("sft/progress.json"):
        return ()
    scored = StageStatus("evaluation", int(store.exists("scores.json")), 1, "scores")
    if not state.get("grpo", False) and not store.exists("grpo/progress.json"):
        return _steps(store, "sft", "loss"), scored
    return _steps(store, "sft", "loss"), _steps(store, "grpo", "reward"), scored


def _steps(store: Store, stage: str, measure: str) -> StageStatus:
    """A stage of training, with the last step's measure; a guard may have ended it early."""
    progress = (store.read_json(f"{stage}/progress.json") if store.local else None) or {}
    finished = (store.read_json(f"{stage}/finished.json") if store.local else None) or {}
    stopped = finished.get("report", {}).get("stopped", "")
    value = progress.get(measure)
    note = f"stopped by a guard. {stopped}" if stopped else "" if value is None else f"{measure} {value:.3f}"
    return StageStatus(stage, progress.get("step", 0), progress.get("steps", 0), "steps", note, bool(stopped))
