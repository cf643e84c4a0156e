"""hit@1 on a held-out slice of `cold_start`, while a student is trained (UME-R1 section 4.1), and what was retrieved.

Guarantees: both modes against one pool, the slice's distinct targets; generation is greedy, so equal weights give equal
scores; a side without an embedding is a miss as query and never found as target. Each side is embedded once, whatever
is made of it. Nothing is drawn from a random state and the model is left in the mode it was in. Several processes share
the sides, and all get the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from umer1_core.backbone.collate import Encoder
from umer1_core.backbone.model import Backbone
from umer1_core.backbone.reason import Mode, SideEmbedding, embed_sides
from umer1_core.backbone.sensitivity import Reasoned
from umer1_core.backbone.vectors import size_of
from umer1_core.pairs import Side, media_from_record
from umer1_core.retrieval import Task, hits_at_1, make_task, oracle, similarities
from umer1_core.template import side_text_of_prompt
from umer1_core.training.ranks import Ranks

Records = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Found:
    """What a query found in the generative mode. completion: as written; target: key of the side it is nearest to, of a
    tie a wrong one, empty where there is no embedding; right: that it may be found.

    margin: similarity of the best right target less that of the best wrong one; nan where one of them is missing.
    """

    completion: str
    target: str
    right: bool
    margin: float


@dataclass(frozen=True, slots=True)
class SliceLook:
    """scores: `hit_disc`, `hit_gen`, the same by modality (`hit_gen_image`), `hit`: the mean of the modes, by which
    checkpoints are compared; `oracle`: the better mode of each query; `disc_ok`, `gen_ok`: shares of distinct sides
    with an embedding; `completion_tokens`: mean per side; `queries`, `candidates`, `chance`.

    sides: by key, what was made of each; found: one a record, in their order, none in the mode `disc`.
    """

    scores: dict[str, float]
    sides: dict[str, SideEmbedding]
    found: tuple[Found, ...]


def look_at_slice(
    backbone: Backbone,
    encoder: Encoder,
    records: Records,
    max_new_tokens: int,
    batch: int = 16,
    mode: Mode = "both",
    ranks: Ranks | None = None,
) -> SliceLook:
    """What a student makes of rows of `cold_start`, of which there is one at least.

    batch: sides at a time; mode `disc`: without generation, and without its scores; ranks: processes that share the
    work, every one calls this with the same records, its weights whole.
    """
    sides = {key: Side(side_text_of_prompt(s.prompt), s.media) for key, s in distinct_sides(records).items()}
    made = _embed(backbone, encoder, sides, max_new_tokens, batch, mode, ranks or Ranks(0, 1, backbone.device))
    task = make_task([r["query_key"] for r in records], [r["target_key"] for r in records])
    names = ("disc", "gen") if mode == "both" else ("disc",)
    tables = {name: _table(task, made, name) for name in names}
    hits = {name: hits_at_1(table, task.relevant) for name, table in tables.items()}
    found = _found(task, tables["gen"], hits["gen"], made) if mode == "both" else ()
    return SliceLook(_scores(records, task, made, hits), made, found)


def reasoned(records: Records) -> list[Reasoned]:
    """The distinct sides with their annotated responses, for `cot_sensitivity`."""
    return list(distinct_sides(records).values())


def distinct_sides(records: Records) -> dict[str, Reasoned]:
    """The same, by key."""
    return {
        record[f"{side}_key"]: Reasoned(
            record[f"{side}_prompt"],
            tuple(media_from_record(item) for item in record[f"{side}_media"]),
            record[f"{side}_response"],
        )
        for record in records
        for side in ("query", "target")
    }


def _embed(
    backbone: Backbone,
    encoder: Encoder,
    sides: dict[str, Side],
    max_new_tokens: int,
    batch: int,
    mode: Mode,
    ranks: Ranks,
) -> dict[str, SideEmbedding]:
    """By key; sides of like size go together, so little is computed on padding."""
    was_training = backbone.model.training
    order = sorted(sides, key=lambda key: size_of(sides[key]))
    made: list[tuple[str, SideEmbedding]] = []
    for first in range(ranks.rank * batch, len(order), ranks.world * batch):
        chosen = order[first : first + batch]
        found = embed_sides(backbone, encoder, [sides[key] for key in chosen], mode, max_new_tokens)
        made += zip(chosen, found, strict=True)
    backbone.model.train(was_training)
    return dict(ranks.gather_objects(made))


def _scores(
    records: Records, task: Task, made: dict[str, SideEmbedding], hits: dict[str, np.ndarray]
) -> dict[str, float]:
    """hits: by mode, [queries]."""
    modalities = np.array([record["modality"] for record in records])
    scores: dict[str, float] = {}
    for name, found in hits.items():
        scores[f"hit_{name}"] = float(found.mean())
        for modality in sorted(set(modalities.tolist())):
            scores[f"hit_{name}_{modality}"] = float(found[modalities == modality].mean())
        scores[f"{name}_ok"] = sum(_status(side, name) == "ok" for side in made.values()) / len(made)
    scores["hit"] = (scores["hit_disc"] + scores.get("hit_gen", scores["hit_disc"])) / 2
    if "gen" in hits:
        scores["oracle"] = float(oracle(hits["gen"], hits["disc"]).mean())
        scores["completion_tokens"] = sum(side.steps for side in made.values()) / len(made)
    return scores | {"queries": len(records), "candidates": len(task.candidate_keys), "chance": task.chance}


def _table(task: Task, made: dict[str, SideEmbedding], name: str) -> np.ndarray:
    """Similarities [queries, candidates], -inf where one of them has no embedding."""
    (queries, asked), (candidates, usable) = (
        _read(made, keys, name) for keys in (task.query_keys, task.candidate_keys)
    )
    return np.where(asked[:, None], similarities(queries, candidates, usable), -np.inf)


def _found(task: Task, table: np.ndarray, hits: np.ndarray, made: dict[str, SideEmbedding]) -> tuple[Found, ...]:
    """One a query."""
    found = []
    for query, scores, relevant, hit in zip(task.query_keys, table, task.relevant, hits, strict=True):
        right, wrong = np.where(relevant, scores, -np.inf), np.where(relevant, -np.inf, scores)
        nearest = right if hit else wrong
        there = bool(np.isfinite(nearest.max()))
        both = np.isfinite(right.max()) and np.isfinite(wrong.max())
        found.append(
            Found(
                made[query].text,
                task.candidate_keys[int(nearest.argmax())] if there else "",
                bool(hit),
                float(right.max() - wrong.max()) if both else np.nan,
            )
        )
    return tuple(found)


def _read(made: dict[str, SideEmbedding], keys: Sequence[str], name: str) -> tuple[np.ndarray, np.ndarray]:
    """[keys, width], and [keys] True where there is an embedding."""
    vectors = [(made[key].gen if name == "gen" else made[key].disc).numpy() for key in keys]
    return np.stack(vectors), np.array([_status(made[key], name) == "ok" for key in keys])


def _status(side: SideEmbedding, name: str) -> str:
    return side.gen_status if name == "gen" else side.disc_status
