"""Every row of the upstream layouts arrives with exactly the text, media and instruction that upstream gives it.

tests/data/upstream holds a few rows of every subset and builder; UMER1_SAMPLE names a larger folder of the same form.
"""

import hashlib
import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from schemas.sources import LlavaHoundSource, MmebSource, OwnSource, VidoreSource, VisragSource
from tests.sampling.derive import MMEB, derive
from tests.sampling.files import only
from umer1_core.media import read_frames, read_image
from umer1_core.pairs import Media, Side, pair_from_record
from umer1_core.sampling import list_sources, sample_source
from umer1_core.store import Store

UPSTREAM = Path(__file__).parents[1] / "data/upstream"
GOLDEN = Path(__file__).parents[1] / "golden/sources"
SAMPLE = os.environ.get("UMER1_SAMPLE", "")


def sampled(folder: Path, store: Store) -> dict[str, list[dict]]:
    """What sampling makes of a folder, by unit, in the form of the golden files."""
    sources = [
        MmebSource(root=str(folder / "mmeb")), LlavaHoundSource(root=str(folder / "llava_hound")),
        VidoreSource(root=str(folder / "vidore/colpali_train_set")), VisragSource(root=str(folder / "visrag")),
    ]  # fmt: skip
    found = {}
    for spec in list_sources(sources):
        *shards, done = sample_source(spec, 0, store)
        assert done.metrics["rejected"] == {} and done.metrics["read"] == done.metrics["pairs"]
        rows = [row for entry in shards for row in store.read_shard("pairs", entry.shard).to_pylist()]
        pairs = sorted(map(pair_from_record, rows), key=lambda pair: int(pair.row.rpartition("#")[2]))
        root = Path(spec.config.root)
        found[spec.name] = [
            {
                "row": pair.row, "source": pair.source, "query": _side(pair.query, root),
                "target": _side(pair.target, root), "negatives": [_side(side, root) for side in pair.negatives],
            }
            for pair in pairs
        ]  # fmt: skip
    return found


def _side(side: Side, root: Path) -> dict:
    return {"text": side.text, "media": [_media(media, root) for media in side.media]}


def _media(media: Media, root: Path) -> dict:
    at = str(Path(media.uri).relative_to(root))
    data = read_frames(media) if media.kind == "video" else [read_image(media)]
    shown = {"at": f"{at}!{media.member}" if media.member else at}
    if media.kind == "video":
        shown["frames"] = list(media.frames)
    return shown | {"sha256": [hashlib.sha256(each).hexdigest()[:16] for each in data]}


def without_instruction(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "instruction"} for row in rows]


@pytest.fixture(scope="module")
def arrived(tmp_path_factory) -> dict[str, list[dict]]:
    return sampled(UPSTREAM, Store(str(tmp_path_factory.mktemp("golden"))))


def golden() -> dict[str, list[dict]]:
    files = sorted(GOLDEN.glob("*.jsonl"))
    return {file.stem: [json.loads(line) for line in file.read_text().splitlines()] for file in files}


@pytest.mark.parametrize("name", golden())
def test_every_row_of_a_source_is_the_golden_pair(arrived, name):
    by_file = {source.replace("/", "-"): rows for source, rows in arrived.items()}
    assert by_file[name] == without_instruction(golden()[name])


def test_there_is_a_golden_file_for_every_published_source(arrived):
    assert {source.replace("/", "-") for source in arrived} == set(golden())
    assert {f"mmeb/{subset}" for subset in MMEB} == {source for source in arrived if source.startswith("mmeb/")}
    assert len(MMEB) == 20 and {row["source"] for row in golden()["visrag"]} == {
        f"visrag/{name}" for name in ("ArxivQA", "ChartQA", "InfoVQA", "MP-DocVQA", "PlotQA", "SlideVQA")
    }


def test_the_golden_files_are_what_the_authors_scripts_give():
    assert {source.replace("/", "-"): rows for source, rows in derive(UPSTREAM).items()} == golden()


def test_the_other_split_has_its_own_instructions(tmp_path):
    store = Store(str(tmp_path))
    config = MmebSource(root=str(UPSTREAM / "mmeb"), split="diverse_instruction")
    for spec in list_sources([config]):
        sample_source(spec, 0, store)
    assert [row["query"]["text"] for row in store.iterate("pairs")] == [
        "Look at the picture and answer: What is the blue shape?"
    ]


@pytest.mark.skipif(not SAMPLE, reason="UMER1_SAMPLE names no sample")
def test_every_row_of_the_sample_is_what_the_authors_scripts_give(tmp_path, capsys):
    expected = derive(Path(SAMPLE))
    found = sampled(Path(SAMPLE), Store(str(tmp_path)))
    assert found == {source: without_instruction(rows) for source, rows in expected.items()}
    own = only(OwnSource(name="sample", files=[f"{SAMPLE}/own/pairs.jsonl"]))
    metrics = sample_source(own, 0, Store(str(tmp_path / "own")))[-1].metrics
    lines = (Path(SAMPLE) / "own/pairs.jsonl").read_text().splitlines()
    assert metrics["pairs"] == len(lines) and metrics["rejected"] == {}
    counts = Counter(source.split("/")[0] for source, rows in found.items() for _ in rows)
    with capsys.disabled():
        sys.stdout.write(f"\nequal rows: {dict(counts)}, {counts.total()} in all, of {len(found)} sources\n")
