"""The embedding stage: sides in, a folder of vectors out (UME-R1 section 3.2).

    embed("runs/miniature/v1/sft/model", sides, "runs/vectors")

Guarantee: each distinct side is embedded once, whatever pair it stands in; both vectors come from one run of the model
and carry a status; started again after a kill, it goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from umer1_core.backbone.model import checkpoint_hash, load_backbone
from umer1_core.backbone.reason import Mode, SideEmbedding, embed_sides
from umer1_core.backbone.vectors import Vectors, VectorSettings, embed_missing, folder_of, load_vectors
from umer1_core.pairs import Side
from umer1_core.store import Store

__all__ = ["Mode", "SideEmbedding", "VectorSettings", "Vectors", "embed", "embed_sides"]


def embed(
    model: str,
    sides: Iterable[Side],
    output: str,
    settings: VectorSettings | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Vectors:
    """Embed sides with a checkpoint; the Parquet shards lie under `output/vectors/`."""
    settings, store, distinct = settings or VectorSettings(), Store(output), {side.key: side for side in sides}
    folder = folder_of(checkpoint_hash(model), settings)
    embed_missing(load_backbone(model), distinct.values(), store, folder, settings, on_progress or _silent)
    return load_vectors(store, folder, list(distinct))


def _silent(done: int, total: int) -> None:
    """Nobody watches."""
