"""One SFT step on the miniature's student against the plain way of the released trainers.

Plain: queries and targets in two padded forwards with all hidden states, full logits and the library's own loss.
Both compute the three terms and their gradient for the same 24 pairs, one thread.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, normalize
from transformers.utils.logging import disable_progress_bar

from tests.bench.line import Line, median_cpu_seconds
from tests.student import cold_start_row, small_pairs, small_student
from umer1_core.backbone.collate import Encoder, Row, collate
from umer1_core.backbone.model import Backbone
from umer1_core.pairs import Side, side_from_record
from umer1_core.sft.step import LossSettings, PairRows, sft_step

_TEMPERATURE = 0.05


def lines() -> Iterator[Line]:
    torch.set_num_threads(1)
    disable_progress_bar()
    backbone = small_student()
    with tempfile.TemporaryDirectory() as folder:
        pairs = _pairs(backbone, Path(folder))
        settings = LossSettings(_TEMPERATURE, "both", "token_mean")
        ours = median_cpu_seconds(lambda: _cleared(backbone, lambda: sft_step(backbone, pairs, settings)))
        plain = median_cpu_seconds(lambda: _cleared(backbone, lambda: _plain_step(backbone, pairs)))
    yield Line("sft: step of 24 pairs", ours, plain, "CPU s", "two full forwards", 1.1, False)


def _pairs(backbone: Backbone, folder: Path) -> list[PairRows]:
    encoder = Encoder(backbone, 1024)

    def row(record: dict, role: str) -> Row:
        side: Side = side_from_record({"text": "", "media": record[f"{role}_media"]})
        return encoder.encode(record[f"{role}_prompt"], side.media, record[f"{role}_response"])

    records = [cold_start_row(pair) for pair in small_pairs(folder)] * 2
    return [PairRows(row(record, "query"), row(record, "target"), f"q{i}", f"t{i}") for i, record in enumerate(records)]


def _cleared(backbone: Backbone, step) -> None:
    backbone.model.zero_grad(set_to_none=True)
    step()


def _plain_step(backbone: Backbone, pairs: list[PairRows]) -> None:
    sides = [_plain_side(backbone, [getattr(pair, role) for pair in pairs]) for role in ("query", "target")]
    loss = sides[0][0] + sides[1][0]
    own = torch.arange(len(pairs))
    for queries, targets in zip(sides[0][1:], sides[1][1:], strict=True):
        scores = queries @ targets.T / _TEMPERATURE
        loss = loss + (cross_entropy(scores, own) + cross_entropy(scores.T, own)) / 2
    loss.backward()


def _plain_side(backbone: Backbone, rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch = collate(rows, backbone.ids, torch.device("cpu"))
    images = [pixels for row in rows for pixels in row.pixels]
    media = {}
    if images:
        media["pixel_values"] = torch.cat([pixels.patches for pixels in images])
        media["image_grid_thw"] = batch.grids("image")
    output = backbone.model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        mm_token_type_ids=batch.media_types,
        labels=batch.labels,
        output_hidden_states=True,
        **media,
    )
    hidden = output.hidden_states[-1]
    reads = []
    for token in (backbone.ids.gen, backbone.ids.disc):
        places = torch.where(batch.ids == token, torch.arange(batch.ids.shape[1]), 0).amax(1)
        reads.append(normalize(hidden[torch.arange(len(rows)), places], dim=-1))
    return output.loss, *reads
