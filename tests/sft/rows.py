"""Pairs of images, clips and text as rows of a backbone, for the tests of a training step."""

from pathlib import Path

from tests.student import TARGET, clip, picture, small_pairs
from umer1_core.backbone.collate import Encoder, Row
from umer1_core.backbone.model import Backbone
from umer1_core.pairs import Media
from umer1_core.template import training_prompt, training_response
from umer1_core.training.data.cold_start import PairRows


def mixed_pairs(backbone: Backbone, folder: Path, negatives: bool = False) -> list[PairRows]:
    """Twelve pairs of pictures, two of clips, one of text alone; the targets of two pairs are equal."""
    encoder = Encoder(backbone, 512)

    def row(text: str, media: tuple[Media, ...], reasoning: str, answer: str) -> Row:
        return encoder.encode(training_prompt(text), media, training_response(reasoning, answer))

    found = []
    for i, pair in enumerate(small_pairs(folder)):
        answer = pair.target.text
        query = row(pair.query.text, pair.query.media, "It shows a disc." * (1 + i % 3), answer)
        found.append(_pair(f"picture-{i}", query, row(answer, (), "A caption.", answer), answer))
    for colour in ("red", "blue"):
        answer = f"A {colour} disc that moves."
        query = row("What happens?", (clip(folder, colour),), "It moves to the right.", answer)
        found.append(_pair(f"clip-{colour}", query, row(answer, (), "A caption.", answer), answer))
    answer = small_pairs(folder)[0].target.text
    shown = (picture(folder, "red", size=(64, 128)),)
    found.append(_pair("text", row("red disc", (), "Text.", answer), row(TARGET, shown, "A disc.", answer), answer))
    if not negatives:
        return found
    hard = [encoder.encode(training_prompt(f"A {n} square."), ()) for n in ("red", "green", "blue")]
    return [
        PairRows(p.pair_id, p.source, p.query, p.target, p.query_key, p.target_key, tuple(hard[: i % 4]))
        for i, p in enumerate(found)
    ]


def _pair(name: str, query: Row, target: Row, answer: str) -> PairRows:
    return PairRows(name, "test/mixed", query, target, f"q-{name}", f"t-{answer}")
