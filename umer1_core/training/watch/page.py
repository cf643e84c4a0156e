"""What the UI shows of a training: one Markdown page, the numbers that matter first, then the curves.

Guarantees: pure; the page holds its picture itself, so it shows wherever the page does.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from umer1_core.training.watch.log import Record, best_evaluation, terms, thousands

_WINDOW = 20
_EVALUATIONS = 8
_NONE = "–"

# What a page says of steps, and of evaluations: key, words, how its number is written.
_STEPS = (
    ("loss", "loss", "{:.3f}"),
    ("disc", "· contrastive, `<disc_emb>`", "{:.3f}"),
    ("gen", "· contrastive, `<gen_emb>`", "{:.3f}"),
    ("token", "· next token", "{:.3f}"),
    ("cross", "· disc(query) against gen(target)", "{:.3f}"),
    ("hit_disc", "hit@1 of the step's pairs, disc", "{:.3f}"),
    ("hit_gen", "hit@1 of the step's pairs, gen", "{:.3f}"),
    ("waste", "padding waste", "{:.1%}"),
    ("memory_gb", "memory, peak", "{:.1f} GB"),
)
_SLICE = (
    ("hit_gen", "hit@1 gen", "{:.3f}"),
    ("hit_disc", "hit@1 disc", "{:.3f}"),
    ("gen_ok", "usable", "{:.0%}"),
    ("completion_tokens", "tokens", "{:.0f}"),
    ("cot_swapped", "swapped", "{:.3f}"),
    ("cot_swapped_all", "all swapped", "{:.3f}"),
    ("cot_empty", "empty", "{:.3f}"),
    ("cot_other", "other row", "{:.3f}"),
)
_COSINES = (
    "Cosines of `<gen_emb>` after its own reasoning with that after another row's (swapped), after another row's whole "
    "response (all swapped), and after none (empty): near 1, the reasoning is ignored. Other row: of two rows' own."
)


def headline(steps: Sequence[Record], total: int) -> str:
    """The last step in a line."""
    return f"step {steps[-1]['step']:,} of {total:,}  {terms(steps[-1])}" if steps else f"0 of {total:,} steps"


def training_page(
    steps: Sequence[Record], evaluations: Sequence[Record], total: int, picture: str, link: str = ""
) -> str:
    """The page. total: steps that the training will have; picture: the curves' SVG; link: an address of the same.

    Prefect's newer UI shows no picture that a page holds itself; there the link is what a person follows.
    """
    if not steps:
        return f"# Training\n\n0 of {total:,} steps.\n"
    done = steps[-1]["step"]
    parts = [f"# Training: step {done:,} of {total:,}", _progress(steps, evaluations), _numbers(steps)]
    data = base64.b64encode(picture.encode()).decode()
    parts.append(f"![Curves of losses, hit@1, speed, waste and memory](data:image/svg+xml;base64,{data})")
    parts += [f"[The curves alone]({link})"] if link else []
    parts += [_slice(evaluations)] if evaluations else []
    return "\n\n".join(parts) + "\n"


def _progress(steps: Sequence[Record], evaluations: Sequence[Record]) -> str:
    last = _recent(steps)
    speed = _mean(last, "tokens_per_s")
    said = [] if speed is None else [f"{thousands(speed)} tokens/s"]
    seconds = _mean(last, "seconds")
    said += [] if seconds is None else [f"{seconds:.2g} s a step"]
    skipped = sum(bool(record.get("skipped")) for record in steps)
    said += [f"steps skipped: {skipped:,}"] if skipped else []
    best = best_evaluation(evaluations)
    said += [f"best checkpoint: step {best['step']:,}, held-out hit@1 {best['hit']:.3f}"] if best else []
    return "; ".join(said)


def _numbers(steps: Sequence[Record]) -> str:
    """Means of the first and of the last steps; terms that are zero throughout are left out."""
    count = min(_WINDOW, len(steps))
    lines = [f"| | first {count} steps | last {count} steps |", "|---|---:|---:|"]
    for name, words, form in _STEPS:
        means = [_mean(part, name) for part in (steps[:count], _recent(steps))]
        if any(means) or name == "waste":
            lines.append(f"| {words} | {' | '.join(_written(mean, form) for mean in means)} |")
    return "\n".join(lines)


def _slice(evaluations: Sequence[Record]) -> str:
    """The newest evaluations and the best; columns that no evaluation has are left out."""
    best = best_evaluation(evaluations)
    chosen = [e for e in evaluations if e is best or e in evaluations[-_EVALUATIONS:]]
    columns = [column for column in _SLICE if any(e.get(column[0]) is not None for e in chosen)]
    lines = [f"| step | {' | '.join(words for _, words, _ in columns)} |", "|---:|" + "---:|" * len(columns)]
    for record in chosen:
        step = f"**{record['step']:,} (best)**" if record is best else f"{record['step']:,}"
        lines.append(f"| {step} | {' | '.join(_written(record.get(name), form) for name, _, form in columns)} |")
    said = f"\n\n{_COSINES}" if any(name.startswith("cot_") for name, _, _ in columns) else ""
    return "## Held-out slice\n\n" + "\n".join(lines) + said


def _recent(steps: Sequence[Record]) -> Sequence[Record]:
    return steps[-_WINDOW:]


def _mean(records: Sequence[Record], name: str) -> float | None:
    """Over the steps that were taken and have the number."""
    values = [r[name] for r in records if r.get(name) is not None and not r.get("skipped")]
    return sum(values) / len(values) if values else None


def _written(value: float | None, form: str) -> str:
    return _NONE if value is None else form.format(value)
