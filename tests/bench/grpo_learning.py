"""Does RL help? hit@1 on held-out pairs before and after GRPO, three seeds from one SFT checkpoint, one thread.

The student is trained by the recipe's SFT for fewer steps, so that it has something left to learn; the RL pairs are new
to it. GRPO is the recipe's with the anchor and a higher rate, chosen on SFT checkpoints of another seed. Two worlds of
600 pairs that no training has seen, both scored greedily as the quickstart scores, the mean over sources: `new pairs`
are of the attribute combinations that are trained on, `new combinations` is the recipe's own held-out world.
Ablations after table 2 of UME-R1, one seed each, on new pairs; `rate 0` is the control that must not pass the gate.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
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
_SFT: dict[str, Any] = {"steps": 400, "seed": 11, "evaluate_every": 0}
_GRPO: dict[str, Any] = {"steps": 80, "learning_rate": 1e-4, "anchor": 0.1, "evaluate_every": 80}
_GATE = 0.03
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
    """new, combinations: generative hit@1 of the two worlds; clips: of the new pairs that are clips; ranking, gap: on
    the slice of cold_start that was kept out, first and last."""

    new: float
    combinations: float
    clips: float
    ranking: tuple[float, float] = (0.0, 0.0)
    gap: tuple[float, float] = (0.0, 0.0)


def lines() -> Iterator[Line]:
    torch.set_num_threads(1)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        bench = _Bench(Path(place))
        before = bench.score(bench.base)
        runs = [bench.run(f"seed-{seed}", {"seed": seed}) for seed in _SEEDS]
        yield from _gates(before, runs)
        control = bench.run("control", {"learning_rate": 0.0})
        gain = 100 * (control.new - before.new)
        yield Line("grpo: gain with rate 0, which must not pass", gain, 3.0, "points", "the gate", 1, False)
        whole = 100 * (runs[0].new - before.new)
        for name, changes in _ABLATIONS.items():
            gain = 100 * (bench.run(name.replace(" ", "-"), changes).new - before.new)
            yield Line(f"grpo: gain {name}", gain, whole, "points", "whole reward, anchor", 1, False)
        others = {source: 0.0 for source in bench.sources if not source.startswith(_CLIPS)}
        clips = bench.run("clips", {"source_weights": others})
        yield Line("grpo: hit@1 of clips, trained on clips alone", clips.clips, before.clips, "", "before", 1, True)


def _gates(before: Result, runs: list[Result]) -> Iterator[Line]:
    for name, said in (("new", "new pairs"), ("combinations", "new combinations")):
        start, after = getattr(before, name), [getattr(run, name) for run in runs]
        if name == "new":
            goal = f"{start:.3f} + 3 points"
            yield Line(f"grpo: hit@1 {said}, mean of three seeds", mean(after), start + _GATE, "", goal, 1, True)
        else:
            yield Line(f"grpo: hit@1 {said}, mean of three seeds", mean(after), start, "", "before", 1, True)
        goal = f"{start:.3f} − 1 point"
        yield Line(f"grpo: hit@1 {said}, worst of three seeds", min(after), start - 0.01, "", goal, 1, True)
    for name in ("ranking", "gap"):
        first, last = (mean(getattr(run, name)[place] for run in runs) for place in (0, 1))
        yield Line(f"grpo: {name} on the held-out slice", last, first, "", "before", 1, True)


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
        evaluations = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
        ranking, gap = ((evaluations[0][key], evaluations[-1][key]) for key in ("ranking", "gap"))
        return replace(self.score(report.model), ranking=ranking, gap=gap)

    def score(self, model: str) -> Result:
        place = Store(str(self.folder / "evaluation"))
        new, combinations = (
            evaluate(model, pairs, self.recipe.evaluation, place) for pairs in (self.new, self.combinations)
        )
        clips = [row["generative"] for source, row in new["sources"].items() if source.startswith(_CLIPS)]
        return Result(new["overall"]["generative"], combinations["overall"]["generative"], mean(clips))

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
