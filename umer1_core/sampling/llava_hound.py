"""LLaVA-Hound (ShareGPTVideo): `root/video_instruction/train/sft/*.jsonl` and `root/train_300k/`.

Three builders with upstream's texts: caption_retrieval (clip and prompt to caption), video_retrieval (caption to clip)
and qa (clip and question to answer). Frames lie in folders, in chunk_N.tar or in chunk_N.tar.gz, which need not be
unpacked. A row's key is the clip with both turns.

The file of questions, video_240k_caption_15k.jsonl, also holds 15k captions. A line of it is a caption line when its
prompt is one of those of video_caption_300k.jsonl (without that file: when its `id` is its clip's), unless its `id` is
its clip's with a number behind (`…_2`), as those of the questions are. `caption_lines` of the recipe says what becomes
of them: `keep` asks them as questions, as UME-R1 does, and counts them (`noted`); `drop` refuses them; `caption` makes
them pairs like those of caption_retrieval, under that name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from schemas.sources import LlavaHoundSource
from umer1_core.errors import BadInput, SourceError, safe_url
from umer1_core.pairs import Media
from umer1_core.sampling.clips import ArchivedClip, index_archives
from umer1_core.sampling.finding import clip_in
from umer1_core.sampling.instructions import (
    VIDEO_QUESTION,
    VIDEO_RETRIEVAL_QUERY,
    VIDEO_RETRIEVAL_TARGET,
    VIDEO_TOKEN,
)
from umer1_core.sampling.lines import json_lines
from umer1_core.sampling.places import Place, exists, place, require_place
from umer1_core.sampling.rows import RawRow, RawSide, Refused, SourceSpec, checked, place_of

CAPTION_LINE = "caption_line"

_TEXTS = "video_instruction/train/sft"
_CAPTIONS = "video_caption_300k.jsonl"
_FILES = {"caption_retrieval": _CAPTIONS, "video_retrieval": _CAPTIONS, "qa": "video_240k_caption_15k.jsonl"}


def list_llava_hound(config: LlavaHoundSource) -> list[SourceSpec]:
    """One unit per builder."""
    root = require_place(config.root, "llava_hound")
    for uri in (*(_file(root, builder) for builder in config.builders), f"{root.uri}/train_300k"):
        if not exists(uri):
            raise SourceError(
                f"llava_hound: there is no {safe_url(uri)}.",
                "Download ShareGPTVideo/train_video_and_instruction there, or correct `root` or `builders`.",
            )
    return [SourceSpec(f"llava_hound/{b}", "video", config, config.limit, b) for b in config.builders]


@dataclass(frozen=True)
class LlavaHound:
    """The rows of one builder."""

    root: Place
    builder: str
    frames: int
    caption_lines: Literal["keep", "drop", "caption"] = "keep"

    def rows(self) -> Iterator[RawRow | Refused]:
        file = _file(self.root, self.builder)
        for number, record in json_lines(file, f"llava_hound/{self.builder}"):
            yield record if isinstance(record, Refused) else self._row(record, file, number)

    def files(self) -> Sequence[str]:
        return [_file(self.root, self.builder)]

    def place(self, reference: str) -> tuple[str, int]:
        clip = None if reference in self._folders else self._archived.get(reference)
        # A plain tar is read by ranges, in any order.
        return (clip.uri, clip.position) if clip and not clip.uri.endswith(".tar") else ("", 0)

    def locate(self, reference: str) -> tuple[Media, ...]:
        folder = self._clips.sub(reference)
        if reference in self._folders:
            return (clip_in(folder, self.frames),)
        if clip := self._archived.get(reference):
            return (Media("video", clip.uri, frames=clip.frames),)
        raise BadInput(
            "media_missing", f"there is no folder {safe_url(folder.uri)}, nor is the clip in a chunk_N.tar.gz beside it"
        )

    @cached_property
    def _clips(self) -> Place:
        return Place(f"{self.root.uri}/train_300k")

    @cached_property
    def _folders(self) -> frozenset[str]:
        return frozenset(name for name, is_folder in self._clips.names() if is_folder)

    @cached_property
    def _archived(self) -> dict[str, ArchivedClip]:
        """Read only when a clip has no folder: indexing an archive reads it once from end to end."""
        return index_archives(self._clips, self.frames)

    @cached_property
    def _caption_prompts(self) -> frozenset[str] | None:
        """The prompts of the file of captions, a few dozen; None where that file is not there."""
        file = _file(self.root, "caption_retrieval")
        if not exists(file):
            return None
        records = (record for _, record in json_lines(file, "") if not isinstance(record, Refused))
        return frozenset(said for _, said, _ in filter(None, map(_turns, records)) if said)

    def _row(self, record: dict[str, Any], file: str, number: int) -> RawRow | Refused:
        source = f"llava_hound/{self.builder}"
        turns = _turns(record)
        if turns is None:
            detail = f"row {number} of {file} is no record with `video` and two conversation turns"
            return Refused(source, place_of(file, number), "bad_record", detail)
        video, said, answered = turns
        key, note, builder = f"{video}\x1f{said}\x1f{answered}", "", self.builder
        if self.builder == "qa" and self._is_caption(record.get("id"), video, said):
            note = CAPTION_LINE
            if self.caption_lines == "drop":
                detail = f"row {number} of {file} asks for a caption: {said[:80]!r}"
                return Refused(source, place_of(file, number), CAPTION_LINE, detail)
            if self.caption_lines == "caption":  # the same row may stand in the file of captions
                source, builder, key = "llava_hound/caption_retrieval", "caption_retrieval", f"{key}\x1f{note}"
        query, target = _sides(builder, video, said, answered)
        row = RawRow(source, key, file, number, query, target, note=note)
        return checked(row) if video else row.refuse("media_missing", f"video of row {number} of {file} is empty")

    def _is_caption(self, identifier: Any, video: str, said: str) -> bool:
        if isinstance(identifier, str) and re.fullmatch(re.escape(video) + r"_\d+", identifier):
            return False
        prompts = self._caption_prompts
        return identifier == video if prompts is None else said in prompts


def open_llava_hound(config: LlavaHoundSource, builder: str) -> LlavaHound:
    return LlavaHound(place(config.root), builder, config.frames, config.caption_lines)


def _turns(record: dict[str, Any]) -> tuple[str, str, str] | None:
    """Clip, human turn and answer without the token of the clip; None for what is no such record."""
    try:
        turns = [turn["value"].replace(VIDEO_TOKEN, "").strip() for turn in record["conversations"][:2]]
        return record["video"].strip(), turns[0], turns[1]
    except (KeyError, IndexError, TypeError, AttributeError):
        return None


def _sides(builder: str, video: str, said: str, answered: str) -> tuple[RawSide, RawSide]:
    """Query and target. A missing turn leaves its side empty: an instruction alone is no query."""
    if builder == "caption_retrieval":
        return RawSide(said, video, "video"), RawSide(answered, "", "conversations[1]")
    if builder == "video_retrieval":
        query = RawSide(VIDEO_RETRIEVAL_QUERY + answered if answered else "", "", "conversations[1]")
        return query, RawSide(VIDEO_RETRIEVAL_TARGET, video, "video")
    query = RawSide(VIDEO_QUESTION + said, video, "video") if said else RawSide("", "", "conversations[0]")
    return query, RawSide(answered, "", "conversations[1]")


def _file(root: Place, builder: str) -> str:
    return f"{root.uri}/{_TEXTS}/{_FILES[builder]}"
