"""Evaluation: hit@1 of a trained student on held-out pairs, beside chance, the untrained student, DUME (if trained),
and, where the student went through GRPO, the one of SFT that it came from.

Guarantees: candidates are the distinct targets of a source (and, as `pooled`, of all sources); embeddings are kept by
side and model, so a killed evaluation goes on where it was; `scores.json` is written last, and not again for the same
model, pairs and settings. The headline is the mean over sources, per mode; the oracle is per query (section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from schemas.recipe import Evaluation, Recipe
from umer1_core.backbone.model import checkpoint_hash, load_backbone
from umer1_core.backbone.reason import Mode
from umer1_core.backbone.vectors import Vectors, VectorSettings, embed_missing, folder_of, load_vectors
from umer1_core.errors import ValidationFailed
from umer1_core.pairs import Pair, pair_from_record
from umer1_core.retrieval import Task, make_task, oracle, retrieved
from umer1_core.scores import SCORES
from umer1_core.store import Store, content_hash, fingerprint
from umer1_core.training.checkpoint import read_json
from umer1_core.versions import local_folder

Scores = dict[str, Any]
Progress = Callable[[int, int], None]
MODES = ("generative", "discriminative")


@dataclass(frozen=True, slots=True)
class _Hits:
    """Per query of one task: did each mode find a right target first."""

    generative: np.ndarray
    discriminative: np.ndarray
    task: Task

    def row(self) -> dict[str, float]:
        best = oracle(self.generative, self.discriminative)
        return {
            "generative": float(self.generative.mean()),
            "discriminative": float(self.discriminative.mean()),
            "oracle": float(best.mean()),
            "chance": self.task.chance,
            "queries": len(self.task.query_keys),
            "candidates": len(self.task.candidate_keys),
        }


def evaluate_recipe(store: Store, held_out: Store, recipe: Recipe, on_progress: Progress | None = None) -> Scores:
    """Evaluate the student a recipe trained; writes and returns `scores.json` of its data set.

    After GRPO `sft` and `sft_pooled` are the scores before it. Raises ValidationFailed where none was trained.
    """
    models = _models(store, recipe)
    inputs = fingerprint(
        [checkpoint_hash(model) for model in models.values()],
        content_hash(held_out.entries("pairs")),
        recipe.evaluation.model_dump(exclude={"batch", "sources"}),
    )
    known = store.read_json(SCORES)
    if known is not None and known.get("inputs") == inputs:
        return known
    pairs = [pair_from_record(record) for record in held_out.iterate("pairs")]
    place = Store(str(local_folder(store, "evaluation")))
    mode: Mode = "disc" if recipe.training.objective == "dume" else "both"

    def scored(name: str, settings: Evaluation, mode: Mode) -> Scores:
        return evaluate(models[name], pairs, settings, place, on_progress, mode)

    scores = scored("model", recipe.evaluation, mode)
    before = scored("sft", recipe.evaluation, mode) if "sft" in models else scores
    if "sft" in models:
        scores |= {"sft": before["overall"], "sft_pooled": before["pooled"]}
    # Of the student before GRPO, so that embeddings made then are found again.
    limit = recipe.evaluation.model_copy(update={"max_new_tokens": max(8, before["longest_completion"])})
    scores["untrained"] = scored("untrained", limit, mode)["overall"]
    if "dume" in models:
        scores["dume"] = scored("dume", limit, "disc")["overall"]
    scores["inputs"] = inputs
    store.write_json(SCORES, scores)
    return scores


def _models(store: Store, recipe: Recipe) -> dict[str, str]:
    """Checkpoints by what they are scored as, `model` first."""
    trained = local_folder(store, "sft")
    student, base = trained / "model", trained / "base"
    if not student.exists():
        raise ValidationFailed(f"{trained} has no trained model.", f"Train one first: umer1 train {store.root}")
    reinforced = _reinforced(store, student)
    models = {"model": str(reinforced), "sft": str(student)} if reinforced else {"model": str(student)}
    models["untrained"] = str(base) if base.exists() else recipe.training.model
    baseline = local_folder(store, "dume") / "model"
    return models | ({"dume": str(baseline)} if baseline.exists() else {})


def _reinforced(store: Store, student: Path) -> Path | None:
    """The student after GRPO, where that began with the student that SFT has trained."""
    folder = local_folder(store, "grpo")
    finished = read_json(folder / "finished.json")
    if finished is None or finished["base_hash"] != checkpoint_hash(str(student)):
        return None
    return folder / "model"


def evaluate(
    model: str,
    pairs: Sequence[Pair],
    settings: Evaluation,
    place: Store,
    on_progress: Progress | None = None,
    mode: Mode = "both",
) -> Scores:
    """Scores of one checkpoint. Embeddings are kept under `place`; on_progress: (sides embedded, sides).

    mode `disc`: without generation, as the discriminative baseline has it; then nothing is found generatively.
    """
    if not pairs:
        raise ValidationFailed("There are no held-out pairs to evaluate on.", "Check `evaluation.sources`.")
    sides = {side.key: side for pair in pairs for side in (pair.query, pair.target)}
    chosen = VectorSettings(mode, settings.max_new_tokens, settings.batch)
    folder = folder_of(checkpoint_hash(model), chosen)
    embed_missing(load_backbone(model), sides.values(), place, folder, chosen, on_progress or _silent)
    return score(pairs, load_vectors(place, folder, list(sides)))


def score(pairs: Sequence[Pair], vectors: Vectors) -> Scores:
    """Scores from embeddings: `overall`, `sources`, `modalities`, `pooled`, shares of usable embeddings."""
    by_source: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_source.setdefault(pair.source, []).append(pair)
    rows = {source: _hits(members, vectors).row() for source, members in sorted(by_source.items())}
    modality = {source: members[0].modality for source, members in by_source.items()}
    return {
        "overall": _mean(list(rows.values())),
        "modalities": {m: _mean([rows[s] for s in rows if modality[s] == m]) for m in sorted(set(modality.values()))},
        "sources": rows,
        "pooled": _hits(pairs, vectors).row(),
        "ok": {"generative": _share(vectors.gen_status), "discriminative": _share(vectors.disc_status)},
        "longest_completion": vectors.longest,
    }


def _hits(pairs: Sequence[Pair], vectors: Vectors) -> _Hits:
    task = make_task([p.query.key for p in pairs], [p.target.key for p in pairs])
    rows = [vectors.rows[key] for key in task.query_keys]
    columns = [vectors.rows[key] for key in task.candidate_keys]
    found = []
    for values, statuses in ((vectors.gen, vectors.gen_status), (vectors.disc, vectors.disc_status)):
        usable = np.array([statuses[column] == "ok" for column in columns])
        asked = np.array([statuses[row] == "ok" for row in rows])
        found.append(retrieved(values[rows], asked, values[columns], usable, task.relevant))
    return _Hits(found[0], found[1], task)


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Every source counts the same; numbers of queries add up."""
    means = {name: float(np.mean([row[name] for row in rows])) for name in (*MODES, "oracle", "chance")}
    return means | {"queries": sum(row["queries"] for row in rows)}


def _share(statuses: Sequence[str]) -> float:
    return sum(status == "ok" for status in statuses) / max(1, len(statuses))


def _silent(done: int, total: int) -> None:
    """Nobody watches."""
