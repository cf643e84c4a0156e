"""What the UI shows of a training: one Markdown page, the numbers that matter first, then the curves.

Guarantees: pure; the page holds its picture itself, so it shows wherever the page does.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from umer1_core.training.watch.log import best_evaluation, terms
from umer1_core.training.watch.sheet import Record, Sheet, mean_of
from umer1_core.training.watch.sheets import SFT

_WINDOW = 20
_EVALUATIONS = 8
_COSINES = (
    "Cosines of `<gen_emb>` after its own reasoning with that after another row's (swapped), after another row's whole "
    "response (all swapped), and after none (empty): near 1, the reasoning is ignored. Other row: of two rows' own."
)


def headline(steps: Sequence[Record], total: int, sheet: Sheet = SFT) -> str:
    """The last step in a line."""
    return f"step {steps[-1]['step']:,} of {total:,}  {terms(steps[-1], sheet)}" if steps else f"0 of {total:,} steps"


def training_page(
    steps: Sequence[Record],
    evaluations: Sequence[Record],
    total: int,
    picture: str,
    link: str = "",
    sheet: Sheet = SFT,
) -> str:
    """The page. total: steps that the training will have; picture: the curves' SVG; link: an address of the same.

    Prefect's newer UI shows no picture that a page holds itself; there the link is what a person follows.
    """
    if not steps:
        return f"# {sheet.title}\n\n0 of {total:,} steps.\n"
    done = steps[-1]["step"]
    parts = [f"# {sheet.title}: step {done:,} of {total:,}"]
    parts += [_progress(steps, evaluations, sheet), _numbers(steps, sheet)]
    data = base64.b64encode(picture.encode()).decode()
    parts.append(f"![{sheet.picture}](data:image/svg+xml;base64,{data})")
    parts += [f"[The curves alone]({link})"] if link else []
    parts += [_slice(evaluations, sheet)] if evaluations else []
    return "\n\n".join(parts) + "\n"


def _progress(steps: Sequence[Record], evaluations: Sequence[Record], sheet: Sheet) -> str:
    said = sheet.progress(_recent(steps))
    skipped = sum(bool(record.get("skipped")) for record in steps)
    said += [f"steps skipped: {skipped:,}"] if skipped else []
    best = best_evaluation(evaluations)
    said += [f"{sheet.best}: step {best['step']:,}, held-out hit@1 {best['hit']:.3f}"] if best else []
    return "; ".join(said)


def _numbers(steps: Sequence[Record], sheet: Sheet) -> str:
    """Means of the first and of the last steps; terms that are zero throughout are left out."""
    count = min(_WINDOW, len(steps))
    lines = [f"| | first {count} steps | last {count} steps |", "|---|---:|---:|"]
    for number in sheet.numbers:
        means = [mean_of(part, number.key) for part in (steps[:count], _recent(steps))]
        if any(means) or number.kept:
            lines.append(f"| {number.words} | {' | '.join(number.written(mean) for mean in means)} |")
    return "\n".join(lines)


def _slice(evaluations: Sequence[Record], sheet: Sheet) -> str:
    """The newest evaluations and the best; columns that no evaluation has are left out."""
    best = best_evaluation(evaluations)
    chosen = [e for e in evaluations if e is best or e in evaluations[-_EVALUATIONS:]]
    columns = [column for column in sheet.evaluated if any(e.get(column.key) is not None for e in chosen)]
    lines = [f"| step | {' | '.join(column.words for column in columns)} |", "|---:|" + "---:|" * len(columns)]
    for record in chosen:
        step = f"**{record['step']:,} (best)**" if record is best else f"{record['step']:,}"
        lines.append(f"| {step} | {' | '.join(column.written(record.get(column.key)) for column in columns)} |")
    said = f"\n\n{_COSINES}" if any(column.key.startswith("cot_") for column in columns) else ""
    return "## Held-out slice\n\n" + "\n".join(lines) + said


def _recent(steps: Sequence[Record]) -> Sequence[Record]:
    return steps[-_WINDOW:]
