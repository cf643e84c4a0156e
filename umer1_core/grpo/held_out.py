"""The held-out slice before, while and after the student is trained by GRPO: what the reinforcement learning gave.

    watch = HeldOutWatch(grpo, pairs.held_out, folder, log, ranks)
    watch.before(backbone)          # step 0
    watch.during(backbone, 50)
    watch.after(backbone, 348)      # of the weights in `model/`, and the report

Guarantees: `held_out/before.json` is of the weights the training starts from; `held_out/after.json` and the last line
of `evaluations.jsonl` are of those it ends with; files are whole or not there. Evaluating draws from no random state
and leaves the model in its mode. A training that goes on looks at its start only where that was not done in the same
way. No best checkpoint is kept, the last one is what the reward made of the student; the report names the best
evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schemas.grpo import Grpo
from umer1_core.backbone.collate import Encoder
from umer1_core.backbone.model import Backbone
from umer1_core.backbone.reason import SideEmbedding
from umer1_core.backbone.sensitivity import Reasoned, cot_sensitivity
from umer1_core.grpo.setup import reward_settings
from umer1_core.grpo.similarity import EmbeddingReward, RewardSettings, embedding_reward
from umer1_core.grpo.watch.group import ShownSide, shown_side
from umer1_core.grpo.watch.report import Example, Outcome, Retrieval, before_after, report_json, report_page
from umer1_core.pairs import Side
from umer1_core.template import GEN_EMB, parse_rollout, side_text_of_prompt
from umer1_core.training.checkpoint import read_json, write_file, write_json
from umer1_core.training.losses import content_keys, equal_entries
from umer1_core.training.outcome import REPORT
from umer1_core.training.ranks import Ranks
from umer1_core.training.watch.log import EVALUATIONS, RunLog, best_evaluation, read_lines
from umer1_core.training.watch.slice import Records, SliceLook, distinct_sides, look_at_slice

FOLDER, BEFORE, AFTER = "held_out", "before.json", "after.json"
REPORT_JSON = "report.json"


class HeldOutWatch:
    """Evaluations of one training, on every rank alike. Without records, or with `evaluate_every: 0`, there are none:
    nothing is computed and nothing written.

    records: the slice, rows of `cold_start` that neither stage trains on; folder: of the training; wanted: whether
    there are any evaluations.
    """

    def __init__(self, grpo: Grpo, records: Records, folder: Path, log: RunLog, ranks: Ranks) -> None:
        self._grpo, self._records, self._folder, self._log, self._ranks = grpo, records, folder, log, ranks
        self.wanted = bool(len(records) and grpo.evaluate_every)

    def before(self, backbone: Backbone) -> None:
        """Step 0. backbone: with the weights the training starts from, also where it goes on from a checkpoint."""
        if not self.wanted:
            return
        kept = self._kept()
        # No rank may find what another writes only now.
        if self._ranks.most(int(kept is None)):
            kept = self._keep(BEFORE, 0, self._look(backbone))
        if kept is not None and not any(line["step"] == 0 for line in self._evaluations()):
            self._log.evaluation({"step": 0, **kept["scores"]})

    def during(self, backbone: Backbone, step: int) -> None:
        """After `step` steps."""
        if self.wanted:
            self._log.evaluation({"step": step, **self._look(backbone)[0]})

    def after(self, backbone: Backbone, steps: int, stopped: str = "") -> None:
        """After the last of the steps that count, with the report. stopped: why a guard ended the training."""
        before = self._kept() if self.wanted else None
        if before is None:
            return
        kept = self._keep(AFTER, steps, self._look(backbone))
        if not self._ranks.main:
            return
        if [line["step"] for line in self._evaluations()[-1:]] != [steps]:
            self._log.evaluation({"step": steps, **kept["scores"]})
        best = best_evaluation(self._evaluations())
        outcome = Outcome(steps, best["step"] if best else steps, best["hit"] if best else math.nan, stopped)
        report = before_after(before["scores"], kept["scores"], examples(self._records, before, kept), outcome)
        write_file(self._folder / REPORT, report_page(report).encode())
        write_file(self._folder / REPORT_JSON, report_json(report))

    def _look(self, backbone: Backbone) -> tuple[dict[str, float], SliceLook]:
        """All scores, and what the slice showed; the ranks share the work and get the same."""
        tokens, encoder = self._grpo.evaluate_tokens, Encoder(backbone, self._grpo.max_prompt_tokens)
        look = look_at_slice(backbone, encoder, self._records, tokens, ranks=self._ranks)
        scores = look.scores | reward_scores(self._records, look.sides, tokens, reward_settings(self._grpo))
        return scores | self._sensitivities(backbone, encoder, look), look

    def _sensitivities(self, backbone: Backbone, encoder: Encoder, look: SliceLook) -> dict[str, float]:
        """With the annotated responses, `cot_…`, and with the model's own completions, `cot_own_…`."""
        annotated = distinct_sides(self._records)
        own = [replace(side, response=look.sides[key].text) for key, side in annotated.items()]
        asked: list[tuple[str, list[Reasoned]]] = [("cot_", list(annotated.values())), ("cot_own_", own)]
        mine = [
            {prefix + name.removeprefix("cot_"): value for name, value in found.record().items()}
            for prefix, rows in asked[self._ranks.rank :: self._ranks.world]
            for found in (cot_sensitivity(backbone, encoder, rows),)
        ]
        return {name: value for part in self._ranks.gather_objects(mine) for name, value in part.items()}

    def _evaluations(self) -> list[dict[str, Any]]:
        return read_lines(self._folder / EVALUATIONS)

    def _kept(self) -> dict[str, Any] | None:
        """What was seen before step 1; None where completions had another limit then."""
        kept = read_json(self._folder / FOLDER / BEFORE)
        return kept if kept is not None and kept["evaluate_tokens"] == self._grpo.evaluate_tokens else None

    def _keep(self, name: str, step: int, seen: tuple[dict[str, float], SliceLook]) -> dict[str, Any]:
        scores, look = seen
        queries = [
            {"pair_id": record["pair_id"], **asdict(found)}
            for record, found in zip(self._records, look.found, strict=True)
        ]
        kept = {
            "step": step,
            "evaluate_tokens": self._grpo.evaluate_tokens,
            "scores": scores,
            "queries": queries,
        }
        if self._ranks.main:
            (self._folder / FOLDER).mkdir(exist_ok=True)
            write_json(self._folder / FOLDER / name, kept)
        self._ranks.barrier()
        return kept


def well_formed(side: SideEmbedding, max_new_tokens: int) -> bool:
    """Whether a greedy completion earns the format reward: the same as no `format_problem` of its ids.

    max_new_tokens: what it was limited to; a completion of that many tokens has not ended its turn.
    """
    ended = side.gen_status == "ok" and side.steps < max_new_tokens
    return ended and side.text.endswith(GEN_EMB) and not parse_rollout(side.text).problem


def reward_scores(
    records: Records, sides: Mapping[str, SideEmbedding], max_new_tokens: int, settings: RewardSettings
) -> dict[str, float]:
    """What the reward of training says of one greedy rollout a side, G = 1: means of its components.

    `format`: over distinct sides. `ranking`, `gap`, `embedding`: over both sides of the pairs, each in a block of all
    pairs of its source, as in training; what is equal by content is no negative whatever the recipe says, or greedy
    rollouts would tie with themselves. A side that nothing in its block could be told from is left out, and the three
    are where all are. With G = 1 the ranking is 0 or 1: hit@1 among the pairs of the source.
    """
    good = {key: well_formed(side, max_new_tokens) for key, side in sides.items()}
    scores = {"format": sum(good.values()) / len(good)}
    values = torch.cat([_block_scores(block, sides, good, settings) for block in _by_source(records)])
    if len(values):
        scores |= dict(zip(("ranking", "gap", "embedding"), values.mean(0).tolist(), strict=True))
    return scores


def _by_source(records: Records) -> list[list[dict[str, Any]]]:
    blocks: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        blocks.setdefault(record["source"], []).append(record)
    return list(blocks.values())


def _block_scores(
    records: Records, sides: Mapping[str, SideEmbedding], good: Mapping[str, bool], settings: RewardSettings
) -> Tensor:
    """[sides of the block that have a negative, 3]: ranking, gap and embedding reward."""
    keys = [[record[f"{role}_key"] for record in records] for role in ("query", "target")]
    numbers = content_keys(*keys)
    equal = equal_entries(numbers[:, 0], numbers[:, 1])
    vectors = [torch.stack([sides[key].gen for key in names]).unsqueeze(1) for names in keys]
    valid = [torch.tensor([good[key] for key in names]).unsqueeze(1) for names in keys]
    told = ~(equal | torch.eye(len(records), dtype=torch.bool)).all(1)
    found = [
        embedding_reward(vectors[own], vectors[other], valid[own], valid[other], equal, settings)
        for own, other in ((0, 1), (1, 0))
    ]
    return torch.cat([_columns(part)[told] for part in found])


def _columns(found: EmbeddingReward) -> Tensor:
    """[pairs, 3], of one rollout each."""
    return torch.cat([found.ranking, found.gap, found.value], dim=1)


def examples(records: Records, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Example]:
    """The slice's queries with what they found in two looks, as `before.json` has them."""
    shown = {
        key: shown_side(Side(side_text_of_prompt(s.prompt), s.media)) for key, s in distinct_sides(records).items()
    }
    looks = [{query["pair_id"]: query for query in look["queries"]} for look in (before, after)]
    return [
        Example(
            pair_id=record["pair_id"],
            source=record["source"],
            modality=record["modality"],
            query=shown[record["query_key"]],
            target=shown[record["target_key"]],
            before=_retrieval(looks[0][record["pair_id"]], shown),
            after=_retrieval(looks[1][record["pair_id"]], shown),
        )
        for record in records
    ]


def _retrieval(query: Mapping[str, Any], shown: Mapping[str, ShownSide]) -> Retrieval:
    margin = query["margin"]
    return Retrieval(
        query["completion"],
        shown[query["target"]] if query["target"] else None,
        query["right"],
        math.nan if margin is None else margin,
    )
