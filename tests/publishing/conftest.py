"""A judged data set: six pairs of each source; every third is dropped through its target."""

from pathlib import Path

import pytest

from schemas.tables import ATTEMPTS
from umer1_core.pairs import Pair, Side, pair_id, pair_record
from umer1_core.store import Store

SOURCES = {"mmeb/CIRR": "image", "mmeb/NIGHTS": "image", "llava_hound/qa": "video", "visrag/ChartQA": "visdoc"}
REASONS = [["no_think"], ["too_long"], ["repetition"]]  # against sample 0, 1, 2


@pytest.fixture
def judged(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "run"))
    sides, verdicts, annotations = {}, [], []
    for source, modality in SOURCES.items():
        pairs = []
        for number in range(6):
            query, target = Side(f"{source} q{number}"), Side(f"{source} {'bad' if number % 3 == 0 else f't{number}'}")
            pairs.append(pair_record(Pair(pair_id(source, str(number)), source, modality, query, target)))
            for side in (query, target):
                row = {"side_key": side.key, "source": source, "modality": modality, "text": side.text, "media": []}
                sides[side.key] = row | {"uses": sides.get(side.key, {"uses": 0})["uses"] + 1}
        slug = source.replace("/", "-")
        store.write_shard("pairs", f"{slug}-00000", pairs)
        refused = [{"source": source, "row": "f#9", "reason": "empty_query", "detail": ""}]
        counts = {"read": 9, "not_drawn": 2, "pairs": 6, "rejected": {"empty_query": 1}}
        store.write_shard("rejections", slug, refused, modality=modality, by_source={source: counts})
    for key, side in sides.items():
        bad = side["text"].endswith("bad")
        shared = {"side_key": key, "sample": 0, "source": side["source"], "completion_tokens": 10}
        annotations.append(shared | {"finish_reason": "stop", "prompt_tokens": 100, "attempts": 1})
        parts = {"reasoning": f"seen {side['text']}", "summary": "sum"}
        reasons = ["no_think", "repetition"] if bad else []
        verdicts.append(shared | parts | {"kept": not bad, "reasons": reasons, "uses": side["uses"]})
    store.write_shard("sides", "00000", sides.values())
    store.write_shard("annotations", "00000", annotations)
    attempts = [{name: row[name] for name in row if name in ATTEMPTS.names} for row in annotations]
    store.write_shard("attempts", "00000", [row | {"attempt": 1, "outcome": "ok"} for row in attempts])
    store.write_shard("verdicts", "00000", verdicts)
    return store


def resample(store: Store, samples: dict[str, list[bool]]) -> None:
    """Replace the verdicts of the sides with these texts: one sample for each value, kept or dropped."""
    by_key = {Side(text).key: kept for text, kept in samples.items()}
    others = [row for row in store.iterate("verdicts") if row["side_key"] not in by_key]
    old = {row["side_key"]: row for row in store.iterate("verdicts")}
    fresh = [
        old[key] | {"sample": number, "kept": good, "summary": f"sample {number}", "reasons": REASONS[number][good:]}
        for key, kept in by_key.items()
        for number, good in enumerate(kept)
    ]
    store.write_shard("verdicts", "00000", fresh[::-1] + others)
