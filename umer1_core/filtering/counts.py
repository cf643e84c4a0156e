"""A shard's own counts of its verdicts, for the manifest, the funnel and the report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from umer1_core.filtering.form import NOT_ANNOTATED

_EDGES = (0, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192)  # of reasoning tokens; the last bin is open


def summarize(verdicts: pa.Table) -> dict[str, Any]:
    """Counts of a shard of verdicts. A side is kept if a sample of it is; tokens are those the annotator generated."""
    kept = verdicts["kept"]
    sides = verdicts.group_by(["side_key", "source"]).aggregate([("kept", "any")])
    by_source: dict[str, dict[str, int]] = {}
    for source, side_kept in zip(sides["source"].to_pylist(), sides["kept_any"].to_pylist(), strict=True):
        counts = by_source.setdefault(source, {"kept": 0, "dropped": 0})
        counts["kept" if side_kept else "dropped"] += 1
    lengths = verdicts["reasoning_tokens"].to_numpy()[_annotated(verdicts["form"].combine_chunks())]
    bins = np.searchsorted(_EDGES, lengths, side="right") - 1
    return {
        "kept": pc.sum(sides["kept_any"]).as_py() or 0,
        "kept_samples": pc.sum(kept).as_py() or 0,
        "reasons": _occurrences(verdicts["reasons"]),
        "flags": _occurrences(verdicts["flags"]),
        "kept_tokens": pc.sum(verdicts["completion_tokens"].filter(kept)).as_py() or 0,
        "dropped_tokens": pc.sum(verdicts["completion_tokens"].filter(pc.invert(kept))).as_py() or 0,
        "reasoning_tokens": {
            "edges": list(_EDGES),
            "counts": [int(n) for n in np.bincount(bins, minlength=len(_EDGES))],
        },
        "by_source": dict(sorted(by_source.items())),
    }


def _annotated(form: pa.ListArray) -> NDArray[np.bool_]:
    annotated = np.ones(len(form), np.bool_)
    annotated[pc.list_parent_indices(form).filter(pc.equal(form.flatten(), NOT_ANNOTATED)).to_numpy()] = False
    return annotated


def _occurrences(lists: pa.ChunkedArray) -> dict[str, int]:
    counted = pc.value_counts(pc.list_flatten(lists)).to_pylist()
    return dict(sorted((item["values"], item["counts"]) for item in counted))
