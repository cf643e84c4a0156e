"""Embeddings of many sides on disk: made once each, in shards, resumable.

Guarantees: keyed by side_key under the model's identity and the generation settings; a shard is there whole or not at
all; a run that was killed goes on with the sides that have no embedding yet. Sides of like size are embedded together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from umer1_core.backbone.collate import Encoder
from umer1_core.backbone.model import Backbone
from umer1_core.backbone.reason import Mode, SideEmbedding, embed_sides
from umer1_core.pairs import Side
from umer1_core.store import Store, fingerprint
from umer1_core.template import TRAINING_PROMPT_VERSION

VECTORS = pa.schema(
    [
        ("side_key", pa.string()),
        ("text", pa.string()),
        ("steps", pa.int32()),
        ("gen_status", pa.string()),
        ("disc_status", pa.string()),
        ("gen", pa.list_(pa.float32())),
        ("disc", pa.list_(pa.float32())),
    ]
)
_MAX_PROMPT = 12_288


@dataclass(frozen=True, slots=True)
class VectorSettings:
    """How sides are embedded; part of what an embedding is keyed by, except the batch."""

    mode: Mode = "both"
    max_new_tokens: int = 8_192
    batch: int = 16
    shard_batches: int = 8


@dataclass(frozen=True, slots=True)
class Vectors:
    """Rows by side_key. gen, disc: [sides, width] fp32, zero where the status is not ok."""

    rows: dict[str, int]
    gen: np.ndarray
    disc: np.ndarray
    gen_status: list[str]
    disc_status: list[str]
    longest: int


def folder_of(model_hash: str, settings: VectorSettings) -> str:
    """The folder of one model's embeddings inside a store."""
    made = fingerprint(TRAINING_PROMPT_VERSION, settings.mode, settings.max_new_tokens)
    return f"vectors/{model_hash}-{made}"


def embed_missing(
    backbone: Backbone,
    sides: Iterable[Side],
    store: Store,
    folder: str,
    settings: VectorSettings,
    on_progress: Callable[[int, int], None],
) -> None:
    """Embed every side that has no row in `folder` yet."""
    wanted = {side.key: side for side in sides}
    known = {key for name in _shards(store, folder) for key in _read(store, name, ["side_key"])["side_key"].to_pylist()}
    left = sorted((s for key, s in wanted.items() if key not in known), key=lambda s: (size_of(s), s.key))
    done = len(wanted) - len(left)
    encoder = Encoder(backbone, _MAX_PROMPT)
    size = settings.batch * settings.shard_batches
    for first in range(0, len(left), size):
        rows = []
        for start in range(first, min(first + size, len(left)), settings.batch):
            batch = left[start : start + settings.batch]
            made = embed_sides(backbone, encoder, batch, settings.mode, settings.max_new_tokens)
            rows += [_row(side, item) for side, item in zip(batch, made, strict=True)]
            done += len(batch)
            on_progress(done, len(wanted))
        _write(store, f"{folder}/{fingerprint([row['side_key'] for row in rows])}.parquet", rows)


def load_vectors(store: Store, folder: str, keys: Sequence[str]) -> Vectors:
    """The rows of `keys`."""
    wanted = set(keys)
    tables = [_read(store, name, VECTORS.names) for name in _shards(store, folder)]
    records = {r["side_key"]: r for table in tables for r in table.to_pylist() if r["side_key"] in wanted}
    ordered = [records[key] for key in dict.fromkeys(keys)]
    return Vectors(
        rows={record["side_key"]: index for index, record in enumerate(ordered)},
        gen=np.array([record["gen"] for record in ordered], dtype=np.float32),
        disc=np.array([record["disc"] for record in ordered], dtype=np.float32),
        gen_status=[record["gen_status"] for record in ordered],
        disc_status=[record["disc_status"] for record in ordered],
        longest=max((record["steps"] for record in ordered), default=0),
    )


def size_of(side: Side) -> tuple[int, int]:
    """What sides are batched by, so that batches need little padding and end together: pictures, characters."""
    return sum(len(item.frames) or 1 for item in side.media), len(side.text)


def _row(side: Side, made: SideEmbedding) -> dict[str, object]:
    return {
        "side_key": side.key,
        "text": made.text,
        "steps": made.steps,
        "gen_status": made.gen_status,
        "disc_status": made.disc_status,
        "gen": made.gen.to(torch.float32).tolist(),
        "disc": made.disc.to(torch.float32).tolist(),
    }


def _shards(store: Store, folder: str) -> list[str]:
    place = store.at(folder)
    if not store.fs.exists(place):
        return []
    return sorted(name for name in store.fs.find(place) if name.endswith(".parquet") and "/.tmp-" not in name)


def _read(store: Store, name: str, columns: list[str]) -> pa.Table:
    with store.fs.open(name) as file:
        return pq.read_table(file, columns=columns)


def _write(store: Store, name: str, rows: list[dict[str, object]]) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=VECTORS), sink, compression="zstd")
    store.write_bytes(name, sink.getvalue().to_pybytes())
