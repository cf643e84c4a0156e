"""Released data in the authors' JSON: UME-sft-train, UME-rl-train, RIME-SFT and RIME-RL; one list, or lines.

Which form a record has is told by its keys, side by side: `qry` and `pos` with `conversations`, `image` and `video`
(SFT), or `qry_text`, `qry_image`, `qry_video` and the same for `pos` (RL). A user turn loses the media tokens and the
training prompt; instructions (`Represent …`) stay, as they stand in MMEB. `blank.jpg`, which stands for "no picture",
gives no media. Paths begin with `MMEB-train/` whatever the root is called: they are tried with it and without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from blake3 import blake3

from schemas.sources import ReleasedSource
from umer1_core.errors import BadInput
from umer1_core.pairs import Media
from umer1_core.sampling.fields import AskedModality, Reading, container, locate, modality_of, read_side
from umer1_core.sampling.finding import Finder
from umer1_core.sampling.instructions import VISRAG_QUERY
from umer1_core.sampling.lines import json_records
from umer1_core.sampling.places import expand, require_place
from umer1_core.sampling.rows import RawRow, Refused, SourceSpec, checked, place_of
from umer1_core.template import ANSWER_CLOSE, ANSWER_OPEN, GEN_EMB, side_text_of_prompt

# The authors' names of data sets, and ours. VisRAG rows are further told apart by the prompt before the query.
SOURCES = {
    "ImageNet_1K": "mmeb/ImageNet_1K",
    "N24News": "mmeb/N24News",
    "HatefulMemes": "mmeb/HatefulMemes",
    "VOC2007": "mmeb/VOC2007",
    "SUN397": "mmeb/SUN397",
    "OK-VQA": "mmeb/OK-VQA",
    "A-OKVQA": "mmeb/A-OKVQA",
    "DocVQA": "mmeb/DocVQA",
    "InfographicsVQA": "mmeb/InfographicsVQA",
    "ChartQA": "mmeb/ChartQA",
    "Visual7W": "mmeb/Visual7W",
    "VisDial": "mmeb/VisDial",
    "CIRR": "mmeb/CIRR",
    "VisualNews_t2i": "mmeb/VisualNews_t2i",
    "VisualNews_i2t": "mmeb/VisualNews_i2t",
    "MSCOCO_t2i": "mmeb/MSCOCO_t2i",
    "MSCOCO_i2t": "mmeb/MSCOCO_i2t",
    "NIGHTS": "mmeb/NIGHTS",
    "WebQA": "mmeb/WebQA",
    "MSCOCO": "mmeb/MSCOCO",
    "llavahound_caption_retrieval": "llava_hound/caption_retrieval",
    "llavahound_video_retrieval": "llava_hound/video_retrieval",
    "llavahound_qa": "llava_hound/qa",
    "video_caption_300k": "llava_hound/caption_retrieval",
    "video_caption_300k-video": "llava_hound/video_retrieval",
    "video_qa_240k": "llava_hound/qa",
    "vidore/colpali_train_set": "vidore/colpali_train_set",
    "colpali_train_set": "vidore/colpali_train_set",
    "vidore": "vidore/colpali_train_set",
    "openbmb/VisRAG-Ret-Train-In-domain-data": "visrag",
    "VisRAG-Ret-Train-In-domain-data": "visrag",
    "visrag-indomain": "visrag",
    "visrag": "visrag",
}
_MODALITY: dict[str, AskedModality] = {"mmeb": "image", "llava_hound": "video", "vidore": "visdoc", "visrag": "visdoc"}
_PREFIX = "MMEB-train/"
_BLANK = "blank.jpg"
_TOKENS = re.compile(r"<image>\n?|<video>\n?|<\|image_\d+\|>\n?")
_BEHIND = (GEN_EMB, "<|im_end|>")  # what upstream puts behind a response
_HUMAN, _MODEL = ("human", "user"), ("gpt", "assistant")


def list_released(config: ReleasedSource) -> list[SourceSpec]:
    """One unit per file, called after it."""
    require_place(config.root, "released")
    files = list(dict.fromkeys(file for pattern in config.files for file in expand(pattern, "released")))
    stems = [_stem(file) for file in files]
    names = [
        stem if stems.count(stem) == 1 else f"{file.split('/')[-2]}-{stem}"
        for file, stem in zip(files, stems, strict=True)
    ]
    return [
        SourceSpec(f"released/{name}", "image", config, config.limit, file)
        for file, name in zip(files, names, strict=True)
    ]


@dataclass(frozen=True)
class Released:
    """The rows of one file, under the names of the sources they came from."""

    config: ReleasedSource
    file: str

    def rows(self) -> Iterator[RawRow | Refused]:
        """The rows without their responses, each light enough that a draw may hold millions."""
        return self._read(False)

    def answered_rows(self) -> Iterator[RawRow]:
        """The rows that are not refused, with the responses where the recipe takes them over."""
        return (row for row in self._read(self.config.responses) if isinstance(row, RawRow))

    def files(self) -> Sequence[str]:
        return [self.file]

    def place(self, reference: str) -> tuple[str, int]:
        return container(reference, self._finder) if reference else ("", 0)

    def locate(self, reference: str) -> tuple[Media, ...]:
        return locate(reference, self._finder)

    @cached_property
    def _finder(self) -> Finder:
        return Finder(require_place(self.config.root, "released"), spellings=_spellings, every_frame=True)

    def _read(self, responses: bool) -> Iterator[RawRow | Refused]:
        unnamed = f"released/{_stem(self.file)}"
        for number, record in json_records(self.file, unnamed):
            if isinstance(record, Refused):
                yield record
                continue
            source = source_of(record, unnamed)
            try:
                yield self._row(record, source, number, responses)
            except BadInput as error:
                yield Refused(source, place_of(self.file, number), error.reason, error.detail)

    def _row(self, record: Mapping[str, Any], source: str, number: int, responses: bool) -> RawRow | Refused:
        where = f"row {number} of {self.file}"
        query, asked = _side(record, "qry", where)
        target, said = _side(record, "pos", where)
        if source == "visrag":
            prompts = (name for name, prompt in VISRAG_QUERY.items() if query.side.text.startswith(prompt.strip()))
            source = "/".join(["visrag", *prompts])
        # The same pair may stand in two files, and is then two rows. Content may be long, and there are millions.
        key = blake3(f"{_stem(self.file)}\x1f{query.key}\x1f{target.key}".encode()).hexdigest()[:32]
        modality = modality_of(_MODALITY.get(source.partition("/")[0], "auto"), query, target)
        ours, theirs = query.side, target.side
        if responses:
            ours, theirs = replace(ours, response=_completion(asked)), replace(theirs, response=_completion(said))
        return checked(RawRow(source, key, self.file, number, ours, theirs, (), modality))


def source_of(record: Mapping[str, Any], unnamed: str) -> str:
    """Our name for the data set a record names; `released/<name>` for one that is not known."""
    name = record.get("dataset_name") or record.get("dataset")
    if not isinstance(name, str):
        return unnamed
    known = SOURCES.get(name) or SOURCES.get(name.rpartition("/")[2])
    return known or "released/" + re.sub(r"[^A-Za-z0-9._/-]+", "-", name)


def _side(record: Mapping[str, Any], role: str, where: str) -> tuple[Reading, str]:
    """A side and the assistant's turn for it, which RL records do not have."""
    if role in record:
        fields = record[role]
        if not isinstance(fields, dict) or not isinstance(fields.get("conversations"), list):
            raise BadInput("bad_record", f"{role} of {where} has no `conversations`")
        asked, answered = (_turn(fields["conversations"], speakers) for speakers in (_HUMAN, _MODEL))
        image, video = fields.get("image"), fields.get("video")
    elif any(f"{role}_{kind}" in record for kind in ("text", "image", "video")):
        asked, image, video = (record.get(f"{role}_{kind}") for kind in ("text", "image", "video"))
        answered = ""
    else:
        raise BadInput("bad_record", f"{where} has neither `{role}` nor `{role}_text`")
    if isinstance(asked, str):
        asked = _TOKENS.sub("", side_text_of_prompt(asked)).strip()
    media = {"text": asked, "image": _shown(image), "video": _shown(video)}
    return read_side(media, role, where), answered if isinstance(answered, str) else ""


def _turn(turns: list[Any], speakers: tuple[str, str]) -> Any:
    found = (
        turn.get("value", turn.get("content")) for turn in turns if isinstance(turn, dict) and _who(turn) in speakers
    )
    return next(found, None)


def _who(turn: Mapping[str, Any]) -> Any:
    return turn.get("from", turn.get("role"))


def _shown(value: Any) -> Any:
    """A media field without the picture that stands for none."""
    if isinstance(value, list):
        return [each for each in value if not _is_blank(each)]
    return None if _is_blank(value) else value


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and value.rpartition("/")[2].strip() in ("", _BLANK)


def _completion(turn: str) -> str:
    """What the annotator wrote, as far as it is there: without what upstream put behind it, the answer closed again."""
    text = turn.strip()
    while text.endswith(_BEHIND):
        text = text.removesuffix(_BEHIND[0]).removesuffix(_BEHIND[1]).rstrip()
    if ANSWER_OPEN in text and ANSWER_CLOSE not in text:
        text += ANSWER_CLOSE
    return text


def _spellings(path: str) -> tuple[str, ...]:
    return (path, path.removeprefix(_PREFIX)) if path.startswith(_PREFIX) else (path,)


def _stem(file: str) -> str:
    return PurePosixPath(file.removesuffix(".gz")).stem
