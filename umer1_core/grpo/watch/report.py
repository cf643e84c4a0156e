"""What reinforcement learning changed: a Markdown page for people, JSON for programs.

    report = before_after(scores_before, scores_after, queries, outcome)
    page, record = report_page(report), report_json(report)

Guarantees: pure; every number stands before and after, with its difference, whether it rose or fell; as many examples
that were hurt are shown as that were helped, where there are as many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import orjson

from umer1_core.grpo.watch.group import ShownSide
from umer1_core.template import GEN_EMB, parse_rollout
from umer1_core.text import markdown_text, one_line

Scores = Mapping[str, float]
"""An evaluation: `hit_gen`, `hit_disc`, `oracle`, the same by modality (`hit_gen_image`), `format`, `ranking`, `gap`,
`embedding`, `completion_tokens`, `cot_swapped` and so on. What one of the two lacks, or has no number for, is left
out."""

_SHOWN = 10  # examples of either kind
_TEXT = 400  # characters of a text in an example

# Key, words, and whether it is a share, whose difference is in points.
_HITS = (
    ("hit_gen", "hit@1, generative", True),
    ("hit_disc", "hit@1, discriminative", True),
    ("oracle", "hit@1, oracle: the better mode of each query", True),
)
_MEASURES = (
    ("gen_ok", "sides with a generative embedding", True),
    ("format", "format", True),
    ("ranking", "ranking", False),
    ("gap", "similarity gap", False),
    ("embedding", "embedding reward", False),
    ("completion_tokens", "tokens a completion", False),
    ("cot_swapped", "cosine after another's reasoning", False),
    ("cot_swapped_all", "cosine after another's whole response", False),
    ("cot_empty", "cosine without reasoning", False),
    ("cot_other", "cosine of two different rows", False),
    ("cot_own_swapped", "own completions: cosine after another's reasoning", False),
    ("cot_own_swapped_all", "own completions: cosine after another's whole response", False),
    ("cot_own_empty", "own completions: cosine without reasoning", False),
    ("cot_own_other", "own completions: cosine of two different rows", False),
)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What a model made of a query. completion: as written; retrieved: the target it is nearest to, None without an
    embedding; right: that it is.

    margin: similarity of the best right target less that of the best wrong one; nan without an embedding.
    """

    completion: str
    retrieved: ShownSide | None
    right: bool
    margin: float


@dataclass(frozen=True, slots=True)
class Example:
    """A held-out query before and after, in the generative mode."""

    pair_id: str
    source: str
    modality: str
    query: ShownSide
    target: ShownSide
    before: Retrieval
    after: Retrieval

    @property
    def gain(self) -> tuple[int, float]:
        """Found now and not before: 1, the other way round: -1; and by how much the margin rose."""
        rise = self.after.margin - self.before.margin
        return self.after.right - self.before.right, rise if math.isfinite(rise) else 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `after` is of. steps: of the model; best_step, best_hit: of the evaluation with the best mean hit@1 of both
    modes, whose weights are not kept; stopped: why a guard ended the training, empty where none did."""

    steps: int
    best_step: int
    best_hit: float
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A measure. share: values from 0 to 1, the difference is told in points."""

    key: str
    words: str
    share: bool
    before: float
    after: float

    @property
    def difference(self) -> float:
        return self.after - self.before


@dataclass(frozen=True, slots=True)
class Report:
    """queries: how many were asked; gained, lost: of them, found after and not before, and the other way round.

    chance: the probability of a difference this large between gained and lost if neither were likelier (sign test).
    helped, hurt: examples, those that changed most first.
    """

    changes: tuple[Change, ...]
    queries: int
    gained: int
    lost: int
    chance: float
    helped: tuple[Example, ...]
    hurt: tuple[Example, ...]
    outcome: Outcome | None = None


def before_after(
    before: Scores, after: Scores, queries: Sequence[Example], outcome: Outcome | None = None, shown: int = _SHOWN
) -> Report:
    """Compare two evaluations. queries: all that were asked, in any order; shown: examples of either kind at most."""
    modalities = sorted({example.modality for example in queries})
    by_modality = [
        (f"{key}_{modality}", f"{words}, {modality}", True) for key, words, _ in _HITS[:2] for modality in modalities
    ]
    gained = sum(example.gain[0] > 0 for example in queries)
    lost = sum(example.gain[0] < 0 for example in queries)
    ranked = sorted(queries, key=lambda example: (example.gain, example.pair_id))
    return Report(
        changes=tuple(
            Change(key, words, share, before[key], after[key])
            for key, words, share in (*_HITS, *by_modality, *_MEASURES)
            if _has(before, key) and _has(after, key)
        ),
        queries=len(queries),
        gained=gained,
        lost=lost,
        chance=sign_test(gained, lost),
        helped=tuple(example for example in reversed(ranked) if example.gain > (0, 0.0))[:shown],
        hurt=tuple(example for example in ranked if example.gain < (0, 0.0))[:shown],
        outcome=outcome,
    )


def sign_test(gained: int, lost: int) -> float:
    """Two-sided, exact: the probability that of so many coins at least this many more fall on one side."""
    coins = gained + lost
    tail = sum(math.comb(coins, i) for i in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**coins)


def report_json(report: Report) -> bytes:
    """All of it; numbers that are not finite are null."""
    changes = [asdict(change) | {"difference": change.difference} for change in report.changes]
    return orjson.dumps(asdict(report) | {"changes": changes}, option=orjson.OPT_INDENT_2)


def headline(report: Report) -> str:
    """`hit@1, generative: 0.803 → 0.892 (+8.9 points)`."""
    first = report.changes[0] if report.changes else None
    return f"{first.words}: {first.before:.3f} → {first.after:.3f} ({_difference(first)})" if first else "no scores"


def report_page(report: Report) -> str:
    """The page: the number that matters, all numbers, what was helped, what was hurt."""
    counted = f"{report.gained:,} of {report.queries:,} queries gained, {report.lost:,} lost"
    parts = [
        "# What GRPO changed",
        f"**{headline(report)}**; {counted} (sign test: p = {report.chance:.2g}).",
        *([_told(report.outcome)] if report.outcome else []),
        _table(report.changes),
    ]
    for title, examples in (("Helped most", report.helped), ("Hurt most", report.hurt)):
        parts += [f"## {title}"] + ([_example(example) for example in examples] or ["None."])
    return "\n\n".join(parts) + "\n"


def _told(outcome: Outcome) -> str:
    """Which model it is, and whether there was a better one on the way."""
    said = f"The model has learned for {outcome.steps:,} steps."
    if outcome.stopped:
        said = f"A guard ended the training: {_safe(outcome.stopped)} The model is that of step {outcome.steps:,}."
    hit = f"{outcome.best_hit:.3f}, hit@1 as the mean of both modes"
    if outcome.best_step == outcome.steps:
        return f"{said} No evaluation was better than its own ({hit})."
    return f"{said} The best evaluation was at step {outcome.best_step:,} ({hit}); its weights are not kept."


def _table(changes: Sequence[Change]) -> str:
    lines = ["| | before | after | difference |", "|---|---:|---:|---:|"]
    lines += [f"| {c.words} | {_value(c, c.before)} | {_value(c, c.after)} | {_difference(c)} |" for c in changes]
    return "\n".join(lines)


def _value(change: Change, value: float) -> str:
    return f"{value:.1f}" if change.key == "completion_tokens" else f"{value:.3f}"


def _difference(change: Change) -> str:
    if change.share:
        return f"{_signed(100 * change.difference, 1)} points"
    return _signed(change.difference, 1 if change.key == "completion_tokens" else 3)


def _signed(value: float, digits: int) -> str:
    """Without a minus before nothing."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def _example(example: Example) -> str:
    before, after = example.before, example.after
    sides = (_parts(before), _parts(after))
    lines = [
        f"### {_mark(before)} → {_mark(after)} {_safe(example.source)}, {example.modality}, {example.pair_id[:8]}",
        "",
        f"**Query** {_side(example.query)}\\",
        f"**Target** {_side(example.target)}",
        "",
        "| | before | after |",
        "|---|---|---|",
        f"| reasoning | {sides[0][0]} | {sides[1][0]} |",
        f"| answer | {sides[0][1]} | {sides[1][1]} |",
        f"| retrieved | {_mark(before)} {_side(before.retrieved)} | {_mark(after)} {_side(after.retrieved)} |",
        f"| margin | {_margin(before)} | {_margin(after)} |",
    ]
    return "\n".join(lines)


def _parts(retrieval: Retrieval) -> tuple[str, str]:
    """Reasoning and answer; of a completion without the form all of it, and what is wrong."""
    parsed = parse_rollout(retrieval.completion.partition(GEN_EMB)[0] + GEN_EMB)
    if GEN_EMB not in retrieval.completion:
        return _safe(retrieval.completion), "(no embedding: the completion has no end)"
    if parsed.problem:
        return _safe(retrieval.completion), f"({parsed.problem})"
    return _safe(parsed.reasoning), _safe(parsed.answer)


def _mark(retrieval: Retrieval) -> str:
    return "✓" if retrieval.right else "✗"


def _margin(retrieval: Retrieval) -> str:
    return f"{retrieval.margin:+.3f}" if math.isfinite(retrieval.margin) else "–"


def _side(side: ShownSide | None) -> str:
    return _safe(f"{side.names} {side.text}") if side else "–"


def _safe(text: str) -> str:
    return markdown_text(one_line(text, _TEXT))


def _has(scores: Scores, key: str) -> bool:
    return key in scores and scores[key] is not None and math.isfinite(scores[key])
